"""One run of an upstream script with our flags: its events, measurements and checkpoints."""
