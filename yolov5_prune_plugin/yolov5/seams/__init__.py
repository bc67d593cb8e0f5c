"""Which name of upstream carries which event, and wrapping such a name."""
