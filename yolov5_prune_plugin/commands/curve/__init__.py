"""``yolov5-prune curve``: accuracy against sparsity."""
