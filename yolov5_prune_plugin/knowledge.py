"""Where the YAML files are that say what we know of each YOLOv5 release (the folder ``patches``)."""

from __future__ import annotations

from pathlib import Path


def patches_dir() -> Path:
    """The folder of the YAML files: inside the package once installed, beside it in a checkout of ours."""
    package = Path(__file__).resolve().parent
    inside = package / "patches"
    return inside if inside.is_dir() else package.parent / "patches"
