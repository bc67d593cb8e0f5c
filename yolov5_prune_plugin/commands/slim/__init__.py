"""``yolov5-prune slim``: a checkpoint with fewer channels."""
