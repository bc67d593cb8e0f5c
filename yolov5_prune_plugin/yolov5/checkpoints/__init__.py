"""Upstream's checkpoints, slim checkpoints, side-cars and .y5z files: written, read and compared."""
