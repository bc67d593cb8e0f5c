"""Pages of the site that are files at the top: README is the index, CONTRIBUTING and CHANGELOG stand beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add them to the pages."""
    from mkdocs.structure.files import File

    root = Path(config["config_file_path"]).parent
    for name, page in TOP.items():
        files.append(File.generated(config, page, content=relinked((root / name).read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of pages to files outside docs/ are shown as text: the site has no source tree."""
    return re.sub(
        r"\[([^]]+)\]\((?:\.\./)+(?:yolov5_prune_plugin|patches|data|benchmarks|tests)/[^)]*\)", r"`\1`", markdown
    )


def relinked(text: str) -> str:
    """Links of a file at the top, as a page in docs/ has them."""
    for name, page in TOP.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text.replace("](docs/", "](")
