"""A YOLOv5 that a command works with: found, imported, asked for models and images."""
