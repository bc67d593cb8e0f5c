"""One HTML page that needs nothing else: the picture as SVG in it, the table, and what decided the results."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from yolov5_prune_plugin.record import LABELS

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.3rem; }}
svg {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }}
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child {{ text-align: left; }}
pre {{ background: #f5f5f5; padding: .7rem; overflow-x: auto; white-space: pre-wrap; }}
</style>
</head>
<body>
<h1>{title}</h1>
<pre>{command}</pre>
{picture}
{table}
<p>{note}</p>
<details><summary>What decided the results</summary><pre>{facts}</pre></details>
</body>
</html>
"""


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
    page = _PAGE.format(title=html.escape(title), command=html.escape(content["command"]), picture=svg(figure),
                        table=_table(content["points"], content["figures"]), note=note,
                        facts=html.escape(facts))  # fmt: skip
    file.write_text(page, encoding="utf-8")


def svg(figure: Figure) -> str:
    """The figure as an <svg> element."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "yolov5-prune"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


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
