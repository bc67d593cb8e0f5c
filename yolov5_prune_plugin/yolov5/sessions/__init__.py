"""A run of an upstream script with our flags: the events that plug-ins answer, measurements and checkpoints."""
