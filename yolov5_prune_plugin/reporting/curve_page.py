"""One HTML page that needs nothing else: the picture as SVG in it, the table, and what decided the results."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from yolov5_prune_plugin.reporting.html_page import html_page, svg
from yolov5_prune_plugin.reporting.oneshot_report import LABELS

_STYLE = "th:nth-child(2), td:nth-child(2), th:last-child, td:last-child { text-align: left; }"


def write_page(file: Path, title: str, content: dict[str, Any], figure: Figure) -> None:
    """Write it.

    Args:
        file: Where to.
        title: Heading.
        content: What curve.json holds: command, figures, points, decided_by.
        figure: The picture.
    """
    missing = len(content["points"]) - sum(row["state"] in ("done", "reused") for row in content["points"])
    note = "Sparsity is counted over all Conv2d weights; MB are those of the checkpoint as fp16, and of a zip of it."
    if missing:
        note += f" {missing} points are missing."
    facts = "\n".join(f"{name}: {value}" for name, value in content["decided_by"].items())
    page = html_page(
        title, f"<pre>{html.escape(content['command'])}</pre>", svg(figure),
        _table(content["points"], content["figures"]), f"<p>{note}</p>",
        f"<details><summary>What decided the results</summary><pre>{html.escape(facts)}</pre></details>",
        style=_STYLE)  # fmt: skip
    file.write_text(page, encoding="utf-8")


def _table(rows: Sequence[dict[str, Any]], figures: Sequence[str]) -> str:
    shown = [
        {"method": row["method"] or "dense", "distribution": row["distribution"] or "", "amount": f"{row['amount']:g}",
         "sparsity": _number(row["conv_sparsity"], 3),
         **{LABELS.get(name, name): _number(row[name], 4) for name in figures},
         "MB": _number(row["bytes"], 2, 1e6), "MB zipped": _number(row["zip_bytes"], 2, 1e6),
         "": row["reason"] or ("" if row["state"] == "done" else row["state"])}
        for row in sorted(rows, key=lambda row: (row["method"] or "", row["distribution"] or "", row["amount"]))
    ]  # fmt: skip
    return pd.DataFrame(shown).to_html(index=False, escape=True, border=0)


def _number(value: Any, digits: int, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"
