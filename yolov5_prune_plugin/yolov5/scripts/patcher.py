"""``yolov5-prune patch``: writes the activation line into the scripts of a checkout, checks it, and removes it."""

from __future__ import annotations

import codecs
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Optional

from yolov5_prune_plugin.errors import PruneError, UpstreamError
from yolov5_prune_plugin.files import files_under, remove_dead, written_all
from yolov5_prune_plugin.yolov5.compat.apply import early_needed
from yolov5_prune_plugin.yolov5.scripts.guard import first_line, main_guard
from yolov5_prune_plugin.yolov5.seams.root import lacking
from yolov5_prune_plugin.yolov5.seams.seams import load_scripts

ACTIVE, INACTIVE = "active", "not active"
MARK = b"  # yolov5-prune: take out with yolov5-prune patch --revert"
# Without the package the script runs as it would without the line; its own parser then refuses flags of ours.
CALL = (
    b'__import__("yolov5_prune_plugin.yolov5", fromlist=["activate"]).%s'
    b' if __import__("importlib.util", fromlist=["util"]).find_spec("yolov5_prune_plugin") else %s'
)
MISSING = (
    b'print("yolov5-prune: the package yolov5-prune-plugin is missing in this Python, so " + __file__ + " runs as plain'
    b" YOLOv5, without its flags and .y5z files: pip install yolov5-prune-plugin, or delete the lines that end in"
    b' yolov5-prune patch --revert", file=__import__("sys").stderr)'
    b' if __name__ in ("__main__", "hubconf.py") else None'
)

HUB, MAKES = "hubconf.py", b"\ndef _create("  # what torch.hub imports, and what it makes models with


class Checkout:
    """The scripts of a YOLOv5 checkout that can be activated.

    Attributes:
        folder: The checkout.
        scripts: Files by path relative to it.
        early: Whether its release needs shims before the scripts' own imports.
        seams: A fork's own YAML, which the activation line then names.
        marked: Other files of it with a line of ours, which another YAML found.
    """

    def __init__(self, folder: Path, scripts: Mapping[str, Path], seams: Optional[str]) -> None:
        self.folder, self.scripts = folder, dict(scripts)
        self.marked = {path: file for path, file in _marked(folder).items() if path not in self.scripts}
        self.early = bool(early_needed(folder))
        self.seams = Path(seams).resolve() if seams else None


def find(folder: Path, seams: Optional[str] = None) -> Checkout:
    """Find the scripts of a checkout that can be activated.

    Args:
        folder: The checkout.
        seams: A fork's own YAML, whose scripts are found too.

    Raises:
        UpstreamError: If the folder is no YOLOv5.
        PruneError: If there is no such folder, or the YAML is wrong.
    """
    if not folder.is_dir():
        raise PruneError("no such folder; give the folder of a YOLOv5 clone", f"patch {folder}")
    found = {path: folder / path for path in load_scripts(seams) if (folder / path).is_file()}
    hub = folder / HUB
    if hub.is_file() and MAKES in hub.read_bytes():
        found[HUB] = hub
    what = lacking(folder) or ("" if found else "any script we know")
    if what:
        raise UpstreamError(
            f"patch {folder}: has no {what}, so it is no YOLOv5 checkout; give the folder that val.py is in"
        )
    return Checkout(folder, found, seams)


def check(checkout: Checkout) -> dict[str, str]:
    """Say of each script whether it has the activation line; one that another YAML named is found too.

    Returns:
        State by script: ``active`` or ``not active``.
    """
    found = _contents(checkout, checkout.marked)
    return {path: ACTIVE if _without(content) != content else INACTIVE for path, content in found.items()}


def patch(checkout: Checkout) -> dict[str, str]:
    """Write the activation line before each main guard; where the release needs shims, one at the top too.

    All scripts or none: everything is parsed and written under other names before the first file is replaced.

    Returns:
        State by script: ``activated`` or ``already active``.

    Raises:
        UpstreamError: If a script has no main guard.
        PruneError: If a file can't be read or written; the checkout is as it was.
    """
    old = _contents(checkout)
    new = {path: _with(checkout, path, _without(content)) for path, content in old.items()}
    _replace(checkout, old, new)
    return {path: "activated" if new[path] != old[path] else "already active" for path in old}


def revert(checkout: Checkout) -> dict[str, str]:
    """Remove our lines from every file of the checkout; every other byte stays.

    Returns:
        State by script: ``reverted`` or ``was not active``.

    Raises:
        PruneError: If a file can't be read or written; the checkout is as it was.
    """
    old = _contents(checkout, checkout.marked)
    new = {path: _without(content) for path, content in old.items()}
    _replace(checkout, old, new)
    return {path: "reverted" if new[path] != old[path] else "was not active" for path in old}


def behind(checkout: Checkout, path: str) -> str:
    """Name the file that a script of a checkout is a link to, and that is changed in its place; empty if it is none.

    Args:
        checkout: The checkout.
        path: A script of it.
    """
    file = {**checkout.scripts, **checkout.marked}[path]
    return str(file.resolve()) if file.is_symlink() else ""


def left_out(checkout: Checkout) -> list[str]:
    """List scripts with flags of their own, in the checkout's folder and its tools/, that are none we know."""
    found = []
    for file in sorted([*checkout.folder.glob("*.py"), *checkout.folder.glob("tools/*.py")]):
        path = file.relative_to(checkout.folder).as_posix()
        try:
            content = file.read_bytes()
            if path not in checkout.scripts and b"ArgumentParser(" in content:
                main_guard(file, content)
                found.append(path)
        except (OSError, UpstreamError):
            continue
    return found


def _marked(folder: Path) -> dict[str, Path]:
    """Files with a line of ours, whatever they are called, outside hidden folders and environments."""
    found = {}
    for file in files_under(folder, (".py",)):
        try:
            if MARK in file.read_bytes():
                found[file.relative_to(folder).as_posix()] = file
        except OSError:
            continue
    return found


def _contents(checkout: Checkout, others: Mapping[str, Path] = MappingProxyType({})) -> dict[str, bytes]:
    try:
        return {path: file.read_bytes() for path, file in {**checkout.scripts, **others}.items()}
    except OSError as error:
        raise PruneError(f"cannot read {error.filename}: {error.strerror}", f"patch {checkout.folder}") from error


def _without(content: bytes) -> bytes:
    mark, lines = _lines(content)
    return mark + b"".join(line for line in lines if MARK not in line)


def _with(checkout: Checkout, path: str, content: bytes) -> bytes:
    file = checkout.scripts[path]
    tree, index = main_guard(file, content)
    mark, lines = _lines(content)
    end = b"\r\n" if lines[0].endswith(b"\r\n") else b"\n"
    seams = f", {str(checkout.seams)!a}".encode() if checkout.seams else b""  # whatever the script's coding is
    said = b"None" if checkout.early else MISSING  # once, by the first of our lines
    lines.insert(tree.body[index].lineno - 1, CALL % (b"activate(globals()%s)" % seams, said) + MARK + end)
    if checkout.early:
        lines.insert(first_line(tree) - 1, CALL % (b"prepare(__file__)", MISSING) + MARK + end)
    patched = mark + b"".join(lines)
    main_guard(file, patched)  # still parses
    return patched


def _lines(content: bytes) -> tuple[bytes, list[bytes]]:
    """The byte order mark, which must stay in front, or nothing; and the lines after it."""
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    return mark, content[len(mark) :].splitlines(keepends=True)


def _replace(checkout: Checkout, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> None:
    """Replace the files that differ, or none of them."""
    places = {**checkout.scripts, **checkout.marked}
    files = {path: places[path].resolve() for path in old}  # of a link the file behind it; the link stays
    changing = [path for path in old if new[path] != old[path]]
    for path in changing:
        if not files[path].stat().st_mode & stat.S_IWUSR or not os.access(files[path], os.W_OK):
            raise PruneError(
                f"{path} is read-only; make it writable (chmod u+w) and try again. No file was changed",
                f"patch {checkout.folder}",
            )
    for folder in {file.parent for file in files.values()}:
        remove_dead(folder)  # of a run that was killed
    by_file = {files[path]: path for path in changing}  # two links to one file are one
    try:
        with written_all([*by_file]) as ready:
            for place, (file, path) in zip(ready, by_file.items()):
                place.write_bytes(new[path])
                shutil.copymode(file, place)
    except OSError as error:
        raise PruneError(
            f"{error.strerror}: {error.filename}; no file was changed", f"patch {checkout.folder}"
        ) from error
