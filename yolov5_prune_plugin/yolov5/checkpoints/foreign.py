"""Files that are no checkpoint of upstream's: what they are, told without unpickling, and what is in them."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.folding import fold_state
from yolov5_prune_plugin.errors import PruneError

CHECKPOINT, STATE, WHOLE, WRAPPED, ULTRALYTICS = "checkpoint", "state_dict", "whole", "wrapped", "ultralytics"
HINTS = {
    STATE: "holds tensors and no model (a state_dict); yolov5-prune import {file} --cfg YAML -o best.pt makes a"
    " checkpoint of it",
    WHOLE: "is a model saved whole, not a checkpoint; yolov5-prune import {file} -o best.pt makes one of it",
    WRAPPED: "holds a model in DataParallel; yolov5-prune import {file} -o best.pt takes it out",
    ULTRALYTICS: "is a model of the ultralytics package (YOLOv5u and later), which YOLOv5's own scripts cannot open;"
    " give weights that YOLOv5's train.py wrote, such as yolov5n.pt",
}  # fmt: skip
_NESTS = ("ema", "model", "state_dict", "model_state_dict", "model_state", "weights", "net", "module")


def kind_of(file: Path) -> str:
    """Tell what a file of torch.save holds by the names in its pickle; nothing is unpickled.

    Args:
        file: The file; one of torch.save before 1.6 counts as a checkpoint.

    Returns:
        ``CHECKPOINT``, ``STATE``, ``WHOLE``, ``WRAPPED`` or ``ULTRALYTICS``.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            names, top = _names_in(archive.read(name))
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError):
        return CHECKPOINT
    if any(name.startswith("ultralytics.nn") for name in names):
        return ULTRALYTICS
    if not any(name.startswith("torch.nn.") for name in names):
        return STATE if any("_rebuild" in name for name in names) else CHECKPOINT
    if any(name.startswith("torch.nn.parallel") for name in names):
        return WRAPPED
    return CHECKPOINT if top == "dict" else WHOLE


def hint(file: Path) -> str:
    """Say in a line what a file is that no script takes, and what takes it; empty for a checkpoint.

    Args:
        file: The file.
    """
    return HINTS.get(kind_of(file), "").format(file=file)


def model_in(content: Any) -> Optional[nn.Module]:
    """Find the model in what was unpickled, without what DataParallel puts around it; None if there are only tensors.

    Args:
        content: A model, or a dictionary with one.
    """
    if isinstance(content, Mapping):
        content = next((one for key in _NESTS if isinstance(one := content.get(key), nn.Module)), None)
    while isinstance(content, nn.Module) and isinstance(getattr(content, "module", None), nn.Module):
        content = content.module
    return content if isinstance(content, nn.Module) else None


def state_in(content: Any) -> dict[str, Tensor]:
    """Find the state dict in what was unpickled, with upstream's names: ``model.0.conv.weight`` and so on.

    Args:
        content: A state dict, or dictionaries around one; names may have a prefix, such as ``module.``.

    Returns:
        Plain tensors in float32 where they were floats.

    Raises:
        PruneError: If there is none, or it is of no YOLOv5.
    """
    found = next(_states(content), None)
    if found is None:
        raise PruneError("has no state_dict in it; give a file of torch.save(model.state_dict(), file)")
    first = next((name for name in found if re.search(r"(^|\.)0\.\w", name)), "")
    if "model.0." in first:
        prefix = first[: first.rindex("model.0.")]
        found = {name[len(prefix) :]: tensor for name, tensor in found.items() if name.startswith(prefix)}
    elif first.startswith("0."):
        found = {f"model.{name}": tensor for name, tensor in found.items()}
    else:
        raise PruneError(f"its tensors are called {next(iter(found))} and so on; those of a YOLOv5 model.0.conv.weight")
    try:
        plain = fold_state(found)
    except ValueError as error:
        raise PruneError(str(error)) from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in plain.items()}


def _states(content: Any, depth: int = 0) -> Iterator[dict[str, Tensor]]:
    """Dictionaries of tensors, outermost first; of several nests the first of ``_NESTS``."""
    if not isinstance(content, Mapping) or depth > 3:
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if any(name.endswith(("weight", "weight_orig", "original")) for name in tensors):
        yield tensors
    for key in [*_NESTS, *(key for key in content if key not in _NESTS)]:
        yield from _states(content.get(key), depth + 1)


def _names_in(data: bytes) -> tuple[set[str], str]:
    """Dotted names of classes and functions in a pickle, and what its outermost object is: ``dict`` or another."""
    names: set[str] = set()
    texts: list[str] = []
    top = ""
    for opcode, argument, _ in pickletools.genops(data):
        name = ""
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            name = ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)
        if name:
            names.add(name)
        if not top and opcode.name not in ("PROTO", "FRAME"):
            top = "dict" if opcode.name in ("EMPTY_DICT", "MARK") or name == "collections.OrderedDict" else "other"
    return names, top
