"""The commands of ``yolov5-prune``, one room each."""
