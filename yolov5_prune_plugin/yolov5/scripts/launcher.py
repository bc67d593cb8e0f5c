"""``yolov5-prune run``: a script or module runs as Python would run it, with shims and activation, in memory only."""

from __future__ import annotations

import ast
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Optional

from yolov5_prune_plugin.errors import PruneError, named, near_file
from yolov5_prune_plugin.yolov5.compat.apply import apply
from yolov5_prune_plugin.yolov5.scripts.guard import main_guard
from yolov5_prune_plugin.yolov5.seams.root import package_folders
from yolov5_prune_plugin.yolov5.seams.seams import STARTED

PATIENCE = 60.0  # seconds for a picture of upstream's that is being drawn as the script ends


def launch(target: str, arguments: Sequence[str], seams: Optional[str] = None) -> None:
    """Run ``python target arguments...``, or ``python -m target arguments...``, with our activation.

    Args:
        target: A file such as ``val.py`` or ``yolov5/segment/val.py``, or a module such as ``yolov5.val``.
        arguments: Its command line.
        seams: A fork's own YAML.

    Raises:
        PruneError: If there is no such file or module.
        UpstreamError: If it is no YOLOv5 script.
    """
    with named(target=f"run {target}"):
        file, package = locate(target)
    apply(file)
    code = compile(_activated(file, seams), str(file), "exec", dont_inherit=True)
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(file), __package__=package, __builtins__=__builtins__)
    main.__dict__[STARTED] = ("yolov5-prune", "run", *(["--seams", seams] if seams else []), target)
    sys.modules["__main__"] = main
    sys.argv = [str(file), *arguments]
    sys.path[0] = os.getcwd() if package else str(file.resolve().parent)
    exec(code, main.__dict__)
    _finish_plots()


def locate(target: str) -> tuple[Path, Optional[str]]:
    """Find the file of a script, and the package it belongs to if it was named as a module; nothing is imported.

    Args:
        target: A file such as ``val.py``, or a module such as ``yolov5.val``.

    Raises:
        PruneError: If there is no such file or module; its field is ``target``.
    """
    if target.endswith(".py") or os.sep in target:
        if not Path(target).is_file():
            raise PruneError("no such file; give a YOLOv5 script, or a module such as yolov5.val"
                             f"{near_file(Path(target))}", "target")  # fmt: skip
        return Path(target), None
    top, *rest = target.split(".")
    sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        folders = package_folders(top)
    finally:
        sys.path.pop(0)
    for folder in folders:
        file = folder.joinpath(*rest).with_suffix(".py")
        if rest and file.is_file():
            return file, target.rpartition(".")[0]
    raise PruneError("neither a file nor an installed module; give val.py, or yolov5.val after pip install yolov5",
                     "target")  # fmt: skip


def _finish_plots() -> None:
    """Wait for upstream's threads that draw: an interpreter that ends under one now and then aborts the process."""
    for thread in threading.enumerate():
        drawn_by = getattr(getattr(thread, "_target", None), "__module__", None) or ""
        if thread.daemon and drawn_by.endswith("utils.plots"):
            thread.join(PATIENCE)


def _activated(file: Path, seams: Optional[str]) -> ast.Module:
    """The script's syntax tree with a call of ``activate`` before its main guard."""
    tree, index = main_guard(file, file.read_bytes())
    call = f"__import__('yolov5_prune_plugin.yolov5', fromlist=['activate']).activate(globals(), {seams!r})"
    statement = ast.parse(call).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, tree.body[index])
    tree.body.insert(index, statement)
    return ast.fix_missing_locations(tree)
