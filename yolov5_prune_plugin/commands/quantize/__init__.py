"""``yolov5-prune quantize``: an INT8 model that keeps the accuracy."""
