"""``--weights best.y5z`` in upstream's scripts: they get an ordinary checkpoint in a folder that goes with the run."""

from __future__ import annotations

import argparse
import atexit
import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import temporary_folder
from yolov5_prune_plugin.yolov5.seams.seams import Script, package_of

SUFFIX = ".y5z"
FLAGS = ("weights", "model")  # classify/train.py calls it --model
_found: dict[str, str] = {}  # checkpoints of this run, by what was given


def unpacked_checkpoint(weights: str) -> str:
    """Return the checkpoint that was made of a .y5z file in this run, and any other weights as they are."""
    return _found.get(weights, weights)


def unpack_weights(script: Script, namespace: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Replace .y5z files among a script's arguments by checkpoints; without any, do nothing.

    export.py keeps the name it was given, since its output goes beside the weights, and gets the checkpoint where it
    loads it.

    Args:
        script: What we know of the script.
        namespace: The script's globals.
        arguments: The script's own arguments, changed in place.

    Raises:
        PruneError: If a file is missing, damaged, or does not fit this YOLOv5.
    """
    for flag in FLAGS:
        given = getattr(arguments, flag, None)
        many = given if isinstance(given, list) else [given]
        if not any(is_packed(one) for one in many):
            continue
        event = "averaged" if script.role == "train" else "model_loaded"
        name = script.find(event, namespace)
        package = package_of(namespace[name])
        for one in many:
            if is_packed(one):
                try:
                    checkpoint_of(Path(one), package)
                except PruneError as error:
                    raise PruneError(f"--{flag} {error}") from None
        if script.role == "export":
            script.wrap(event, namespace, _loading)
        else:
            places = [unpacked_checkpoint(str(one)) if is_packed(one) else one for one in many]
            setattr(arguments, flag, places if isinstance(given, list) else places[0])


def is_packed(weights: Any) -> bool:
    """Whether weights are the name of a .y5z file."""
    return isinstance(weights, (str, Path)) and str(weights).endswith(SUFFIX)


def checkpoint_of(file: Path, package: str) -> str:
    """Write the checkpoint that a .y5z file stands for, once in a process; it goes when the process ends.

    Args:
        file: The .y5z file.
        package: What dotted names of the running YOLOv5 start with: empty, or ``yolov5.``.

    Returns:
        The name of the checkpoint.

    Raises:
        PruneError: If the file is missing, damaged, or does not fit this YOLOv5.
    """
    if str(file) not in _found:
        _found[str(file)] = _unpacked(file, package)
    return _found[str(file)]


def _unpacked(file: Path, package: str) -> str:
    from yolov5_prune_plugin.yolov5.checkpoints.y5z import open_model, save_checkpoint

    if not file.is_file():
        raise PruneError(f"{file}: no such file; yolov5-prune compress makes one of a checkpoint")
    opened, model = open_model(file, package)
    try:
        folder = temporary_folder()
        atexit.register(folder.cleanup)
        place = Path(folder.name) / f"{file.stem}.pt"
        size = save_checkpoint(place, opened.content, model)
    except OSError as error:
        raise PruneError(f"{file}: the checkpoint in it cannot be written to {gettempdir()}: {error.strerror}; set"
                         " TMPDIR to a folder with more room") from error  # fmt: skip
    print(f"yolov5-prune: {file}: {opened.size:,} bytes, {size:,} as a checkpoint", flush=True)
    return str(place)


def _loading(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(weights: Any, *args: Any, **kwargs: Any) -> Any:
        return original(unpacked_checkpoint(str(weights)) if is_packed(weights) else weights, *args, **kwargs)

    return load
