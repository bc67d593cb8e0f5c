"""The model and the image size that a command is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.errors import PruneError


def open_model(upstream: Any, weights: Path) -> Any:
    """Load a model in float32 and eval mode.

    Args:
        upstream: The YOLOv5 that it is loaded with.
        weights: A checkpoint or a .y5z file.

    Raises:
        PruneError: If it can't be loaded.
    """
    from yolov5_prune_plugin.yolov5.checkpoints import y5z

    if weights.suffix != y5z.SUFFIX:
        return upstream.load(weights)[1]
    return y5z.open_model(weights, upstream.package)[1].float().eval()


def image_size(given: Sequence[int], task: str, stride: int) -> tuple[int, int]:
    """--imgsz as height and width.

    Args:
        given: One or two numbers; none is the task's own.
        task: The folder of its scripts.
        stride: The model's largest.

    Raises:
        PruneError: If the model can't take images of that size.
    """
    sides = list(given) or ([224] if task == "classify/" else [640])
    if len(sides) > 2 or any(side < 1 or (side % stride and task != "classify/") for side in sides):
        text = " ".join(map(str, sides))
        raise PruneError(f"--imgsz {text}: one or two sides, multiples of {stride}, the model's largest stride")
    return sides[0], sides[-1]
