"""``yolov5-prune bench``: latency, memory and size side by side."""
