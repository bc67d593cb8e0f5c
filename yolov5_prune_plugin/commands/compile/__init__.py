"""``yolov5-prune compile``: a model as one native library, or a page for a browser."""
