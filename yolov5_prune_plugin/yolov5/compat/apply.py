"""Lets old YOLOv5 releases run on a new Python stack, and keeps all of them from installing and downloading things."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.compat.shims import Place, Shim, load_shims
from yolov5_prune_plugin.yolov5.compat.source_rewrite import RewritingFinder
from yolov5_prune_plugin.yolov5.seams.root import find_root, package_folders

SWITCH = "YOLOV5_PRUNE_SHIMS"
_finder = RewritingFinder()
_applied: set[tuple[Path, str]] = set()
_undo: list[Callable[[], object]] = []


def early_needed(root: Path | str) -> list[str]:
    """Name the shims that the sources at ``root`` need before a script's imports, whatever is installed here.

    Args:
        root: The YOLOv5 folder, or a script in it.

    Raises:
        UpstreamError: If it is in no YOLOv5 folder.
    """
    root = find_root(root)
    _forget()
    return [shim.name for shim in load_shims() if shim.early and any(_lines(root, place) for place in shim.places)]


def apply(root: Path | str) -> list[str]:
    """Apply the shims that the sources at ``root`` need here and that are not applied yet.

    Args:
        root: The YOLOv5 folder, or a script in it.

    Returns:
        The names of the shims applied now.

    Raises:
        PruneError: If the environment variable YOLOV5_PRUNE_SHIMS names an unknown shim.
        UpstreamError: If ``root`` is in no YOLOv5 folder.
    """
    if (setting := os.environ.get(SWITCH, "").strip()) == "off":
        return []
    script = Path(root).name if str(root).endswith(".py") else None
    root = find_root(root)
    _forget()
    shims = load_shims()
    off = _switched_off(setting, [shim.name for shim in shims])
    fresh = [shim for shim in shims if shim.name not in off and (root, shim.name) not in _applied]
    return [shim.name for shim in fresh if not _for_another_script(shim, script) and _apply(shim, root)]


def revert() -> None:
    """Undo all shims; modules that were imported meanwhile stay as they are."""
    _finder.remove()
    while _undo:
        _undo.pop()()
    _applied.clear()


def _for_another_script(shim: Shim, script: str | None) -> bool:
    """Whether a shim is for one main script only, and another is run: export.py's costs an import of torch.onnx."""
    main = {place.file for place in shim.places}
    return script is not None and not any("/" in file for file in main) and script not in main


def _apply(shim: Shim, root: Path) -> bool:
    present = [place for place in shim.places if _lines(root, place)]
    files = [(file, place) for place in present for file in _files_with(root, place)]
    files += [(file, place) for place in shim.places if place.package for file in _file_of_package(place)]
    if not present or not _missing(shim.missing):
        return False
    if shim.call and shim.call not in _CALLS:
        raise PruneError(f"shim {shim.name} calls {shim.call!r}; there are {', '.join(_CALLS)}")
    for file, place in files:
        if place.replace is not None:
            _finder.add(file, place)
            _finder.install()
    if shim.call and (undo := _CALLS[shim.call]()):
        _undo.append(undo)
    _applied.add((root, shim.name))
    return True


def _lines(root: Path, place: Place) -> bool:
    """Whether the release has the line; a line of an installed package says nothing about the release."""
    return not place.package and bool(_files_with(root, place))


def _files_with(root: Path, place: Place) -> list[Path]:
    """The files of a release that have a line of a place."""
    if place.package:
        return []
    return [file for file in _matching(root, place.file) if place.lines.search(_text(file))]


def _forget() -> None:
    _matching.cache_clear()
    _text.cache_clear()


@cache
def _matching(root: Path, pattern: str) -> list[Path]:
    if "*" in pattern:
        return sorted(file.resolve() for file in root.glob(pattern))
    return [(root / pattern).resolve()] if (root / pattern).is_file() else []


@cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _file_of_package(place: Place) -> list[Path]:
    folders = package_folders(str(place.package))
    return [(folders[0] / place.file).resolve()] if folders else []


def _missing(name: str | None) -> bool:
    """Whether a module, or an attribute by its dotted name, cannot be found here."""
    if name is None:
        return True
    module, *attributes = name.split(".")
    if importlib.util.find_spec(module) is None:
        return True
    if not attributes:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns when a deprecated name is only looked at
        thing = importlib.import_module(module)
        for attribute in attributes:
            if not hasattr(thing, attribute):
                try:
                    importlib.import_module(f"{thing.__name__}.{attribute}")
                except (ImportError, AttributeError):
                    return True
            thing = getattr(thing, attribute)
    return False


def _switched_off(setting: str, known: list[str]) -> set[str]:
    names = [part.strip() for part in setting.split(",") if part.strip()]
    if wrong := [name for name in names if not name.startswith("-") or name[1:] not in known]:
        raise PruneError(
            f"{SWITCH} has {', '.join(wrong)}; give off, or a comma list of -{', -'.join(known)} to switch those off"
        )
    return {name[1:] for name in names}


def _set_environment(name: str, value: str) -> Callable[[], object]:
    old = os.environ.get(name)
    os.environ[name] = value
    return lambda: os.environ.pop(name, None) if old is None else os.environ.update({name: old})


def report_missing_packages() -> Callable[[], object]:
    """Have the package ultralytics report missing packages instead of installing them, by its own switch.

    Returns:
        A call that undoes it.
    """
    checks = sys.modules.get("ultralytics.utils.checks")
    if checks is not None and hasattr(checks, "AUTOINSTALL"):
        vars(checks)["AUTOINSTALL"] = False
    return _set_environment("YOLO_AUTOINSTALL", "false")


def load_whole_checkpoints() -> Callable[[], object] | None:
    """Have torch.load unpickle whole models by default, by torch's own switch, without its warning.

    Returns:
        A call that undoes it; None if the user forbids it.
    """
    if "TORCH_FORCE_WEIGHTS_ONLY_LOAD" in os.environ:  # the user has it strict, and torch refuses to have both set
        return None
    warnings.filterwarnings("ignore", "Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", UserWarning)
    return _set_environment("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def export_onnx_by_tracing() -> Callable[[], object] | None:
    """Have torch.onnx.export trace the model, as it did when these releases came out, unless its caller says otherwise.

    Returns:
        A call that undoes it; None if this torch traces anyway.
    """
    import functools
    import inspect

    import torch.onnx

    original: Any = torch.onnx.export
    parameter = inspect.signature(original).parameters.get("dynamo")
    if parameter is None or not parameter.default:
        return None

    @functools.wraps(original)
    def export(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{"dynamo": False, **kwargs})

    vars(torch.onnx)["export"] = export
    return lambda: vars(torch.onnx).update(export=original)


_CALLS = {call.__name__: call for call in (report_missing_packages, load_whole_checkpoints, export_onnx_by_tracing)}
