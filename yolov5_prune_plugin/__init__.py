"""Model compression for a stock YOLOv5: ``python val.py --weights yolov5x.pt --prune 0.3``."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``hookimpl`` marks a plug-in's functions as answers to the events in plugin_api/hookspecs.py.

    pluggy is imported with it and not before: a script that runs without our flags does not need it.
    """
    if name != "hookimpl":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pluggy

    return pluggy.HookimplMarker("yolov5_prune")
