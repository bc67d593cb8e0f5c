"""``--weights best.y5z`` in upstream's scripts: they get an ordinary checkpoint in a folder that goes with the run."""

from __future__ import annotations

import argparse
import atexit
import functools
import glob
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from yolov5_prune_plugin.errors import PruneError, near_file
from yolov5_prune_plugin.files import temporary_folder
from yolov5_prune_plugin.yolov5.seams.seams import Script, package_of
from yolov5_prune_plugin.yolov5.seams.wrapping import Override

SUFFIX = ".y5z"
FLAGS = ("weights", "model")  # classify/train.py calls it --model
_found: dict[str, str] = {}  # checkpoints of this run, by what was given


def unpacked_checkpoint(weights: str) -> str:
    """Return the checkpoint that was made of a .y5z file in this run, and any other weights as they are."""
    return _found.get(weights, weights)


def export_under(given: str) -> tuple[str, Path]:
    """Find names that are free for what export.py writes beside the weights, and for our report there.

    Args:
        given: The weights.

    Returns:
        What export.py is to be told instead of ``given``, which loads the same; and the folder of the report.
    """
    file, number = Path(given), 1
    while True:
        again = "" if number == 1 else str(number)
        name, folder = f"{file.stem}_pruned{again}", file.with_name(f"{file.stem}_prune{again}")
        if not folder.exists() and not [*file.parent.glob(f"{glob.escape(name)}[._-]*")]:
            break
        number += 1
    place = str(file.with_name(f"{name}.pt"))
    _found[place] = unpacked_checkpoint(given)
    return place, folder


def names_given() -> dict[str, str]:
    """The .y5z files of this run by the checkpoints that were made of them."""
    return {place: given for given, place in _found.items() if is_packed(given)}


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
            if script.role == "train":
                _keep_names(namespace)


def _keep_names(namespace: dict[str, Any]) -> None:
    """Have opt.yaml hold the .y5z files that were given: the checkpoints of this run go when it ends."""

    def with_names(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def save(*args: Any, **kwargs: Any) -> Any:
            return original(*map(_named_as_given, args), **kwargs)

        return save

    if "yaml_save" in namespace:
        namespace["yaml_save"] = with_names(namespace["yaml_save"])
    elif "yaml" in namespace:  # until v6.1
        module = namespace["yaml"]
        namespace["yaml"] = Override(module, safe_dump=with_names(module.safe_dump), dump=with_names(module.dump))


def _named_as_given(content: Any) -> Any:
    names = names_given()
    if not isinstance(content, dict):
        return content
    return {key: names.get(value, value) if isinstance(value, str) else value for key, value in content.items()}


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
        raise PruneError(f"{file}: no such file; yolov5-prune compress makes one of a checkpoint{near_file(file)}")
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
