"""Upstream's checkpoints and ours: read, written, packed and unpacked."""
