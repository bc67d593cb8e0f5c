"""Model compression for a stock YOLOv5: ``python val.py --weights yolov5x.pt --prune 0.3``."""

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("yolov5_prune")
"""Marks a plug-in's functions as answers to the events in hookspecs.py."""
