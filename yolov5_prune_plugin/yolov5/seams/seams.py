"""Which name in a script's namespace carries which event: read from ``patches`` and a fork's own file."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import yaml

from yolov5_prune_plugin.errors import PruneError, UpstreamError, named
from yolov5_prune_plugin.files import patches_dir
from yolov5_prune_plugin.yolov5.seams.wrapping import wrap

ROLES = ("validate", "use", "export", "train")
EVENTS = ("parser", "model_loaded", "run_folder", "evaluation", "data_loaded", "callbacks", "suppression",
          "training", "logged", "architecture", "model_made", "optimizer_made", "scheduled", "averaged", "loss",
          "judged", "validated", "saved", "finished", "stripped")  # fmt: skip
STEPS = ("nominal", "warmup")
TOOLS = ("check_yaml", "check_dataset", "check_img_size", "load_images", "load_classes", "verify_image", "suffixes")
TIMES = ("preprocess", "inference", "nms")
FAMILIES = ("val", "train", "detect", "export")

STARTED = "__yolov5_prune_started__"  # in the namespace of a script that the launcher runs: how it was started


@dataclass(frozen=True)
class Script:
    """One script of upstream's, as we know it.

    Attributes:
        path: Relative to the checkout, such as ``segment/val.py``.
        role: One of ``ROLES``.
        seams: Names by event; the first that the script has is wrapped.
        results: Names of the figures that ``run`` returns.
        results_in: Index of the item that holds them, or None if they are the returned tuple itself.
        figure: The one of them that a model is judged by; by default the last.
        times_in: Index of the item that holds the times in ms per image, or None if it returns none.
        tools: Dotted names in the checkout of what we use of it, by ``TOOLS``; the first that exists is used.
        steps: Regular expressions by ``STEPS`` that find in a train.py's source what its optimizer steps depend on.
        times: Names of the times that ``times_in`` names, in their order.
    """

    path: str
    role: str
    seams: dict[str, tuple[str, ...]] = field(default_factory=dict)
    results: tuple[str, ...] = ()
    results_in: Optional[int] = None
    times_in: Optional[int] = None
    figure: str = ""
    tools: dict[str, tuple[str, ...]] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    times: tuple[str, ...] = TIMES

    def has(self, event: str, namespace: dict[str, Any]) -> bool:
        """Whether this script has one of the names that carry an event.

        Args:
            event: One of ``EVENTS``.
            namespace: Globals of the script.
        """
        return any(name.partition(".")[0] in namespace for name in self.seams.get(event, ()))

    def find(self, event: str, namespace: dict[str, Any]) -> str:
        """Find the name that carries an event in this script.

        Args:
            event: One of ``EVENTS``.
            namespace: Globals of the script.

        Raises:
            UpstreamError: If the script has none of the names we know.
        """
        names = self.seams.get(event, ())
        for name in names:
            if name.partition(".")[0] in namespace:
                return name
        raise UpstreamError(
            f"{namespace.get('__file__', self.path)} has none of {', '.join(names) or f'a name for {event}'}: not a"
            f" YOLOv5 {self.path}, or a release before v6.0; a fork can name its own with --seams FILE"
        )

    def wrap(self, event: str, namespace: dict[str, Any], wrapper: Callable[[Any], Any]) -> Callable[[], None]:
        """Put ``wrapper(what is there)`` in the place of the name that carries an event.

        Args:
            event: One of ``EVENTS``.
            namespace: Globals of the script.
            wrapper: Makes the new function or class from upstream's.

        Returns:
            A call that puts back upstream's.

        Raises:
            UpstreamError: If the script has none of the names we know.
        """
        return wrap(namespace, self.find(event, namespace), wrapper)

    def resumes(self, arguments: Any) -> bool:
        """Whether a train.py with these arguments goes on with an interrupted run."""
        resume = getattr(arguments, "resume", False) and not getattr(arguments, "evolve", None)
        return self.role == "train" and bool(resume)

    def tool(self, name: str, package: str) -> Any:
        """Import a function, class or constant of the checkout that we use.

        Args:
            name: One of ``TOOLS``.
            package: What the dotted names start with where the scripts run: empty in a clone, ``yolov5.`` from PyPI.

        Raises:
            UpstreamError: If the checkout has none of the names we know.
        """
        for dotted in self.tools.get(name, ()):
            module, _, attribute = (package + dotted).rpartition(".")
            try:
                return getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError):
                continue
        known = ", ".join(self.tools.get(name, ())) or f"a name for {name}"
        raise UpstreamError(f"this YOLOv5 has none of {known}, which calibration images for {self.path} need; a fork"
                            " can name its own under tools with --seams FILE")  # fmt: skip


def package_of(original: Any) -> str:
    """Tell from a function or class of upstream's what its dotted names start with.

    Returns:
        Empty in a clone, ``yolov5.`` from PyPI.
    """
    found = re.match(r"((?:.*\.)?)(?:models|utils)\.", str(getattr(original, "__module__", "")))
    return found[1] if found else ""


def load_scripts(extra: Optional[str] = None) -> dict[str, Script]:
    """Read what we know of upstream's scripts, by path.

    Args:
        extra: A fork's own file of the same form (``--seams``); its scripts are added, or replace ours.

    Raises:
        PruneError: If a file can't be read or has something else in it.
    """
    scripts: dict[str, Script] = {}
    for family in FAMILIES:
        scripts.update(_read(patches_dir() / f"{family}.yaml"))
    if extra:
        with named(default=f"--seams {Path(extra)}"):
            scripts.update(_read(Path(extra)))
    return scripts


def find_script(file: str, scripts: dict[str, Script]) -> Optional[Script]:
    """Find the script whose path is the longest tail of a file's; None if it is no script we know.

    Args:
        file: Path of the file.
        scripts: Those we know, as ``load_scripts`` has them.
    """
    parts = Path(file).resolve().parts
    fitting = [script for path, script in scripts.items() if parts[-len(Path(path).parts) :] == Path(path).parts]
    return max(fitting, key=lambda script: len(script.path), default=None)


def _read(file: Path) -> dict[str, Script]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PruneError(f"cannot be read as YAML: {' '.join(str(error).split())}") from error
    entries = content.get("scripts") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise PruneError("needs a mapping 'scripts' of script paths, as in patches/val.yaml")
    return {path: _script(path, entry) for path, entry in entries.items()}


def _script(path: str, entry: Any) -> Script:
    def refuse(what: str) -> PruneError:
        return PruneError(f"{path}: {what}")

    role = entry.get("role") if isinstance(entry, dict) else None
    if not isinstance(path, str) or role not in ROLES:
        raise refuse(f"role must be one of {', '.join(ROLES)}, got {role!r}")
    names = {}
    for key, kind, known in (("seams", "event", EVENTS), ("tools", "tool", TOOLS)):
        names[key] = entry.get(key) or {}
        if not isinstance(names[key], dict) or not all(isinstance(value, list) for value in names[key].values()):
            raise refuse(f"{key} must map {kind}s to lists of names")
        unknown = sorted(set(names[key]) - set(known))
        if unknown:
            raise refuse(f"unknown {kind} {unknown[0]!r}; {kind}s are {', '.join(known)}")
    if not isinstance(entry.get("results") or [], list):
        raise refuse("results must be a list of names")
    steps = entry.get("steps") or {}
    if not isinstance(steps, dict) or set(steps) - set(STEPS):
        raise refuse(f"steps must map {' and '.join(STEPS)} to regular expressions, got {steps!r}")
    results = tuple(map(str, entry.get("results") or ()))
    times = entry.get("times", list(TIMES))
    if not isinstance(times, list) or not set(times) <= set(TIMES):
        raise refuse(f"times must be a list of {', '.join(TIMES)}, got {times!r}")
    figure = entry.get("figure", results[-1] if results else "")
    if results and figure not in results:
        raise refuse(f"figure must be one of {', '.join(results)}, got {figure!r}")
    for key in ("results_in", "times_in"):
        if not isinstance(entry.get(key), (int, type(None))):
            raise refuse(f"{key} must be a whole number, got {entry[key]!r}")
    return Script(
        path,
        entry["role"],
        {"parser": ("argparse",), **_tuples(names["seams"])},
        results,
        entry.get("results_in"),
        entry.get("times_in"),
        figure if results else "",
        _tuples(names["tools"]),
        {key: str(value) for key, value in steps.items()},
        tuple(times),
    )


def _tuples(names: dict[str, list[Any]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(map(str, value)) for key, value in names.items()}
