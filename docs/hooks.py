"""Hooks of the site: its first page is README.md, links out of docs/ lead to the repository, formulas are MathML."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}  # pages that stand beside docs/
LINK = re.compile(r"(?<!!)\[([^\]\n]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that stand beside docs/, with their links as they are from inside it.

    Args:
        files: What mkdocs found in docs/.
        config: The configuration of the site.

    Returns:
        ``files``, with the added pages.
    """
    for name, page in TOP.items():
        text = LINK.sub(_from_inside, (ROOT / name).read_text(encoding="utf-8"))
        text = re.sub(r"(!\[[^\]\n]*\]\()docs/", r"\1", text)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Lead links to files outside of docs/ to the repository; without ``repo_url`` only their text stays.

    Args:
        markdown: The text of a page.
        page: The page; its place decides what its links mean.
        config: The configuration of the site.

    Returns:
        The text with its links changed.
    """
    folder = posixpath.dirname(page.file.src_uri)

    def changed(link: re.Match[str]) -> str:
        text, name, anchor = link[1], link[2], link[3] or ""
        place = posixpath.normpath(posixpath.join("docs", folder, name))
        if "://" in name or place.startswith("docs/"):
            return link[0]
        if place in TOP:
            return f"[{text}]({posixpath.relpath(TOP[place], folder or '.')}{anchor})"
        url = config.get("repo_url")
        return f"[{text}]({url.rstrip('/')}/blob/master/{place})" if url else text

    return LINK.sub(changed, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers draw by themselves.

    Args:
        content: The page as HTML, formulas in TeX.

    Returns:
        The same with ``math`` elements.
    """
    return FORMULA.sub(
        lambda found: convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline"), content
    )


def _from_inside(link: re.Match[str]) -> str:
    """Change a link of a page beside docs/ into that of a page inside it."""
    if "://" in link[2]:
        return link[0]
    return f"[{link[1]}]({posixpath.relpath(link[2], 'docs')}{link[3] or ''})"
