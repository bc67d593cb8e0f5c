"""The commands ``compress``, ``decompress`` and ``inspect``."""
