"""What upstream puts around a model for use in Python: taken off, and taught to read .y5z files."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

from torch import nn

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints.unpacking import checkpoint_of, is_packed

WRAPPERS = ("AutoShape", "DetectMultiBackend", "YOLOv5", "DataParallel", "DistributedDataParallel")


def unwrapped(model: Any) -> nn.Module:
    """Take off what torch.hub, ``yolov5.load`` and DataParallel put around a model.

    Args:
        model: A module, wrapped or not; a wrapped one shares its layers with what is returned.

    Raises:
        PruneError: If there is no PyTorch module in it.
    """
    while type(model).__name__ in WRAPPERS:
        model = getattr(model, "module", None) or getattr(model, "model", None)
    if not isinstance(model, nn.Module):
        raise PruneError("must be an nn.Module, or what torch.hub.load or yolov5.load gives for .pt weights; got"
                         f" {type(model).__name__}", "model")  # fmt: skip
    return model


def read_packed_weights(package: str) -> None:
    """Have upstream's loaders take .y5z files wherever they take .pt files. Twice is as good as once.

    Args:
        package: What dotted names of the YOLOv5 start with: empty, or ``yolov5.``.
    """
    common = importlib.import_module(f"{package}models.common")
    backend = getattr(common, "DetectMultiBackend", None)  # from v6.1 on
    if backend is not None and not hasattr(backend.__init__, "__wrapped__"):
        backend.__init__ = _unpacking(backend.__init__, package, 1)
    experimental = importlib.import_module(f"{package}models.experimental")
    if not hasattr(experimental.attempt_load, "__wrapped__"):
        experimental.attempt_load = _unpacking(experimental.attempt_load, package, 0)


def _unpacking(original: Any, package: str, place: int) -> Any:
    """The same function with weights, its argument number ``place``, unpacked if they are a .y5z file."""

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        if len(given) > place and is_packed(given[place]):
            given[place] = checkpoint_of(Path(given[place]), package)
        elif is_packed(kwargs.get("weights")):
            kwargs["weights"] = checkpoint_of(Path(kwargs["weights"]), package)
        return original(*given, **kwargs)

    return load
