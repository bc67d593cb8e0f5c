"""A tree as a clone has it, made from the PyPI package, for machines that can't clone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path


def clone_like(package: Path, folder: Path) -> Path:
    """A tree as a clone has it, from the PyPI package: its imports without the prefix again."""
    shutil.copytree(package, folder, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for file in folder.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        text = re.sub(r"^(\s*(?:from|import) )yolov5\.", r"\1", text, flags=re.MULTILINE)
        text = re.sub(r"^from yolov5 import __version__$", "__version__ = '7.0'", text, flags=re.MULTILINE)
        file.write_text(text, encoding="utf-8")
    (folder / "__init__.py").unlink()
    (folder / "requirements.txt").write_text("torch\n")
    return folder
