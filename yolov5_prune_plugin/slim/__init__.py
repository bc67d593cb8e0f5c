"""yolov5-prune slim and bench: smaller models, and what they gain."""
