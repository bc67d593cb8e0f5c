"""``yolov5-prune compress``, ``decompress`` and ``inspect``."""
