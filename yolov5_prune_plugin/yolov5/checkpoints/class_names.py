"""Class names in a checkpoint: those of a clone of v6.0, which every release finds, whichever release writes it."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from yolov5_prune_plugin.yolov5.seams.seams import package_of


def save(content: dict[str, Any], stream: BinaryIO) -> None:
    """Write a checkpoint that every release opens.

    The PyPI package has its classes in ``yolov5.models``, and calls a detector DetectionModel since v6.2 as clones do.
    Official checkpoints say ``models`` and Model, which the package understands too.

    Args:
        content: The checkpoint, with the model under ``model``.
        stream: An open binary file; a name would go into the file itself.
    """
    torch.save(content, stream, pickle_module=SimpleNamespace(**{**vars(pickle), "Pickler": _Pickler}))


class _Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]  # the one in Python, whose names can be changed
    def save_global(self, obj: Any, name: Any = None) -> None:
        package = package_of(obj) if isinstance(obj, type) else ""
        module = str(getattr(obj, "__module__", ""))
        detector = isinstance(obj, type) and obj.__name__ == "DetectionModel" and module.endswith("models.yolo")
        if not package and not detector:
            super().save_global(obj, name)
            return
        short = "Model" if detector else obj.__qualname__
        self.write(pickle.GLOBAL + f"{module[len(package) :]}\n{short}\n".encode())
        self.memoize(obj)

    dispatch = {**pickle._Pickler.dispatch, type: None}  # type: ignore[attr-defined]

    def _save_type(self, obj: Any) -> None:
        if obj in (type(None), type(NotImplemented), type(...)):
            super().save_type(obj)
        else:
            self.save_global(obj)

    dispatch[type] = _save_type
