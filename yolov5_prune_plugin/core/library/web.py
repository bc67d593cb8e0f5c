"""The page around a library for browsers: static files, which any server serves."""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path

PAGE = Path(__file__).parent / "web"
FILES = ("detector.js", "detector.d.ts", "worker.js", "offline.js")


def write_page(folder: Path, library: Path, title: str) -> None:
    """Put a page and its library in a folder.

    Args:
        folder: Where to; it is there.
        library: The .wasm file.
        title: Of the page.

    Raises:
        OSError: If something can't be written.
    """
    shutil.copyfile(library, folder / "detector.wasm")
    for name in FILES:
        shutil.copyfile(PAGE / name, folder / name)
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    text = text.replace("<title>Detector</title>", f"<title>{escape(title)}</title>")
    (folder / "index.html").write_text(text, encoding="utf-8")
