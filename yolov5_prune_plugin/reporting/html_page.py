"""HTML pages that need nothing else: the frame that all of them have, and figures as SVG in them."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; color: #222; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; }
svg, img { max-width: 100%; height: auto; }
svg { width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; white-space: pre-wrap; }"""


def html_page(title: str, *body: str, style: str = "") -> str:
    """Make a whole page.

    Args:
        title: Plain text, for the head and above the body.
        body: HTML, part by part.
        style: More CSS.
    """
    escaped = html.escape(title)
    head = ["<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">', f"<title>{escaped}</title>",
            "<style>", *filter(None, (_STYLE, style)), "</style>", "</head>"]  # fmt: skip
    return "\n".join([*head, "<body>", f"<h1>{escaped}</h1>", *body, "</body>", "</html>", ""])


def svg(figure: Figure) -> str:
    """Make an <svg> element of a figure, the same for the same figure."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "yolov5-prune"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
