"""What a shim is, and how ``patches/shims.yaml`` is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import patches_dir


@dataclass(frozen=True)
class Place:
    """A line of a source file that shows that a release needs a shim, and what the line becomes.

    Attributes:
        file: Path relative to the YOLOv5 folder, or to the installed package; for YOLOv5 it may be a glob.
        find: Found in the line.
        replace: What the match becomes while the module is imported; None leaves the line as it is.
        package: An installed package that has the file; None for YOLOv5 itself.
    """

    file: str
    find: re.Pattern[str]
    replace: str | None = None
    package: str | None = None

    @cached_property
    def lines(self) -> re.Pattern[str]:
        """As ``find``, for a text of many lines."""
        return re.compile(self.find.pattern, re.MULTILINE)


@dataclass(frozen=True)
class Shim:
    """One thing that a release needs here, or must not do; an entry of ``patches/shims.yaml``.

    Attributes:
        name: What YOLOV5_PRUNE_SHIMS=-name switches off.
        reason: One sentence for the user.
        releases: Which releases need it, in words.
        places: Lines that show the need, or are changed.
        early: Whether it must come before the script's own imports.
        missing: It is needed only if this module or attribute can't be found here; None is always.
        call: A function of ``compat/apply.py`` that is called too.
    """

    name: str
    reason: str
    releases: str
    places: tuple[Place, ...]
    early: bool = False
    missing: str | None = None
    call: str | None = None


def load_shims(folder: Path | None = None) -> tuple[Shim, ...]:
    """Read all shims from ``shims.yaml``.

    Args:
        folder: Where it is; by default our own ``patches``.

    Raises:
        PruneError: If it cannot be read or says something we do not understand.
    """
    import yaml  # here: the early line of a script must stay cheap

    file = (patches_dir() if folder is None else Path(folder)) / "shims.yaml"
    try:
        entries = yaml.load(file.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise PruneError(f"{file} cannot be read: {error}") from error
    if not isinstance(entries, list):
        raise PruneError(f"{file} must hold a list of shims, got {type(entries).__name__}")
    shims = tuple(_shim(entry, f"{file}, entry {number}") for number, entry in enumerate(entries, 1))
    if len({shim.name for shim in shims}) < len(shims):
        raise PruneError(f"{file} has two shims of the same name: {', '.join(shim.name for shim in shims)}")
    return shims


def _shim(entry: Any, where: str) -> Shim:
    fields = _fields(entry, where, Shim, {"name", "reason", "releases", "places"})
    if not isinstance(fields["places"], list) or not fields["places"]:
        raise PruneError(f"{where}: places must be a list of file and find, got {fields['places']!r}")
    places = tuple(_place(place, f"{where} ({fields['name']})") for place in fields["places"])
    shim = Shim(**{**fields, "places": places})
    replaces = any(place.replace is not None for place in places)
    if replaces and not shim.early:
        raise PruneError(f"{where} ({shim.name}): a replace works only before the imports; add early: true")
    if not replaces and not shim.call:
        raise PruneError(f"{where} ({shim.name}): it does nothing; give a replace or a call")
    return shim


def _place(entry: Any, where: str) -> Place:
    fields = _fields(entry, where, Place, {"file", "find"})
    if "\n" in str(fields.get("replace")):
        raise PruneError(f"{where}: replace must stay one line, or line numbers in tracebacks would shift")
    try:
        return Place(**{**fields, "find": re.compile(fields["find"])})
    except (re.error, TypeError) as error:
        raise PruneError(f"{where}: find is no regular expression: {fields['find']!r} ({error})") from error


def _fields(entry: Any, where: str, kind: type, needed: set[str]) -> dict[str, Any]:
    known = set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    if not isinstance(entry, dict):
        raise PruneError(f"{where} must be a mapping with {', '.join(sorted(needed))}, got {entry!r}")
    if wrong := set(entry) - known:
        raise PruneError(f"{where} has unknown keys {sorted(map(str, wrong))}; known: {', '.join(sorted(known))}")
    if lacking := needed - set(entry):
        raise PruneError(f"{where} lacks {', '.join(sorted(lacking))}")
    return dict(entry)
