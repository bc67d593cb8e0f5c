"""What things are called in tables and pictures: figures by upstream's own words, a run by its model and its data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from yolov5_prune_plugin.plugin_api.run import Run

_LABELS = {"precision": "P", "recall": "R", "map50": "mAP50", "map": "mAP50-95"}
_MASK = "mask_"
GIVEN = "as given"  # the model that was given: it may be sparse or slim already


def label(name: str, figures: Iterable[str] = ()) -> str:
    """Call a figure as upstream does: ``map`` is mAP50-95; of a segmenter mAP50-95(B), and ``mask_map`` mAP50-95(M).

    Args:
        name: Of the figure.
        figures: Names of all figures of the script.
    """
    if name.startswith(_MASK):
        return f"{_LABELS.get(name[len(_MASK) :], name[len(_MASK) :])}(M)"
    boxes = name in _LABELS and any(other.startswith(_MASK) for other in figures)
    return _LABELS.get(name, name) + ("(B)" if boxes else "")


def is_figure(name: str) -> bool:
    """Whether a name is one of a script's figures."""
    return name.removeprefix(_MASK) in _LABELS or name.startswith("top")


def subject(run: Run) -> str:
    """Name what a run is about: ``best.pt on coco128.yaml``."""
    weights = ", ".join(Path(name).name for name in run.weights) or "a new model"
    data = getattr(run.arguments, "data", None)
    return f"{weights} on {Path(str(data)).name}" if data and run.role in ("validate", "train") else weights
