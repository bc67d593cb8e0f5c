"""Lets old YOLOv5 releases run on a current Python stack: shims, and lines changed while modules are imported."""
