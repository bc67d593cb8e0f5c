"""Which folder is a YOLOv5: one rule for a script's own, a checkout that is named, and the working directory."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from yolov5_prune_plugin.errors import UpstreamError


def lacking(folder: Path) -> str:
    """Say what a folder lacks to be a YOLOv5: ``models`` with ``yolo.py``, and ``utils``; empty if it is one.

    Many projects have folders of these names; ``models/yolo.py`` is what every YOLOv5 checkpoint is unpickled with.
    """
    folders = [name for name in ("models", "utils") if not (folder / name).is_dir()]
    if folders:
        return " and ".join(f"{name}/" for name in folders)
    return "" if (folder / "models" / "yolo.py").is_file() else "models/yolo.py"


def find_root(path: Path | str) -> Path:
    """Find the YOLOv5 that a path is or is in: the nearest folder that lacks nothing.

    Raises:
        UpstreamError: If there is none.
    """
    path = Path(path).resolve()
    for folder in (path, *path.parents):
        if not lacking(folder):
            return folder
    raise UpstreamError(f"{path} is no YOLOv5 folder and in none: it lacks {lacking(path)}, and so does one above")


def package_folders(name: str) -> list[Path]:
    """List the folders of an installed top-level package, without importing it; empty if it is not installed."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
