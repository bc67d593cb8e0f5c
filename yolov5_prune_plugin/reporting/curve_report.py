"""What a person looks at after a curve: its picture, and one HTML page that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pandas as pd

from yolov5_prune_plugin.reporting.figure import canvas, open_frame
from yolov5_prune_plugin.reporting.html_page import html_page, svg
from yolov5_prune_plugin.reporting.labels import GIVEN, label
from yolov5_prune_plugin.reporting.tables import Table

BY_SIZE = ("multiplications_left", "ms")  # smaller images have less of it
MARKERS = "os^Dv*PX"
SMALLER = "dense, smaller images"
_STYLE = "th:nth-child(2), td:nth-child(2), th:last-child, td:last-child { text-align: left; }"


def headlines(figures: Sequence[str]) -> list[str]:
    """Choose the figures that a curve is drawn of: each mAP50-95, or the first if the script has none."""
    return [name for name in figures if name == "map" or name.endswith("_map")] or [figures[0]]


def draw(rows: Sequence[dict[str, Any]], figures: Sequence[str], title: str) -> Any:
    """Draw one line for each method and distribution; the dense model begins all of them.

    Args:
        rows: Points, with method, distribution, conv_sparsity, zip_bytes and the figures; those without are left out.
        figures: Names of the script's figures.
        title: Above it.
    """
    drawn, across = headlines(figures), _axes(rows)
    figure = canvas(5.5 * len(across), 4.6 * len(drawn))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    axes = figure.subplots(len(drawn), len(across), squeeze=False, sharey="row")
    lines = _lines(rows)
    for name, panels in zip(drawn, axes):
        for panel, (what, unit, text) in zip(panels, across):
            _panel(panel, lines, name, what, unit)
            panel.set_xlabel(text)
        panels[0].set_ylabel(label(name, figures))
        panels[0].set_ylim(bottom=0)
        panels[0].set_xlim(left=0)
    if lines:
        axes[0][-1].legend(frameon=False, fontsize=8)
    return figure


def _axes(rows: Sequence[dict[str, Any]]) -> list[tuple[str, float, str]]:
    """What is drawn across, in which unit, under which words: what some row has."""
    found = [("conv_sparsity", 1.0, "share of the conv weights that is zero"),
             ("multiplications_left", 1e9, "billion multiplications by weights that are not zero"),
             ("ms", 1.0, "ms for an image in the sparse runtime"),
             ("zip_bytes", 1e6, "MB of the file: of checkpoints (fp16) when zipped, of .y5z as it is")]  # fmt: skip
    found = [one for one in found if one[0] not in BY_SIZE or _has(rows, one[0])]
    if _has_flops(rows) and not _has(rows, "multiplications_left"):
        found.append(("flops", 1.0, "share of the FLOPs that is left"))
    return found


def _has(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return any(row.get(name) is not None for row in rows)


def _has_flops(rows: Sequence[dict[str, Any]]) -> bool:
    return any((row.get("flops") or 1.0) < 1 for row in rows)


def _panel(axes: Any, lines: dict[str, list[dict[str, Any]]], name: str, across: str, unit: float) -> None:
    for index, (line, rows) in enumerate(lines.items()):
        smaller = line == SMALLER  # the same weights: a point alone but for their multiplications
        points = [] if smaller and across not in BY_SIZE else [
            (row[across] / unit, row[name]) for row in rows if row.get(across) is not None]  # fmt: skip
        axes.plot(*zip(*sorted(points)) if points else ((), ()), marker=MARKERS[index % len(MARKERS)], markersize=4,
                  color="black" if smaller else f"C{index % 10}", linestyle="--" if smaller else "-", linewidth=1.4,
                  label=line)  # fmt: skip
    open_frame(axes)
    axes.grid(alpha=0.25)


def _lines(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Measured points by line, in the order of their amounts; dense on smaller images is one of its own."""
    done = [row for row in rows if row["state"] in ("done", "reused")]
    dense = [row for row in done if row["method"] is None and not row.get("imgsz")]
    smaller = [row for row in done if row["method"] is None and row.get("imgsz")]
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in done:
        if row["method"] is not None:
            size = f", at {row['imgsz']}" if row.get("imgsz") else ""
            name = ", ".join(filter(None, (row["method"], row["distribution"]))) + size
            lines.setdefault(name, []).append(row)
    begun = {
        label: sorted(
            [*(one for one in [*dense, *smaller] if one.get("imgsz") == line[0].get("imgsz")), *line],
            key=lambda row: row["amount"],
        )
        for label, line in sorted(lines.items())
    }
    if smaller:
        begun[SMALLER] = sorted([*dense, *smaller], key=lambda row: -(row.get("multiplications_left") or 0))
    return begun or ({"dense": dense} if dense else {})


def curve_table(rows: Sequence[dict[str, Any]], figures: Sequence[str]) -> Table:
    """Make a table of the points, line by line; the dense model comes first.

    Args:
        rows: Points as curve.json has them, in the order in which they were measured.
        figures: Names of the script's figures.
    """
    table = Table()
    for column in ("method", "distribution"):
        table.column(column, "text")
    sized, counted = any(row.get("imgsz") for row in rows), _has(rows, "multiplications_left")
    timed = _has(rows, "ms")
    spare = {"MB fp16": 1, "P": 2, "R": 3, "amount": 4}
    some = [*(["size"] if sized else []), "sparsity", *(["mult. G"] if counted else []), *(["ms"] if timed else [])]
    for column in ("amount", *some, *(label(name, figures) for name in figures), "MB fp16", "MB zipped"):
        table.column(column, spare=spare.get(column, 0))
    if _has_flops(rows):
        table.column("FLOPs")
    table.column("", "text")
    last: Optional[tuple[str, str]] = None
    for row in sorted(rows, key=_line_of):
        if last not in (None, _line_of(row)):
            table.section()
        last = _line_of(row)
        numbers = [_number(row[name], 4) for name in figures]
        sizes = [_number(row[name], 2, 1e6) for name in ("bytes", "zip_bytes")]
        if _has_flops(rows):
            sizes.append(_number(row.get("flops"), 3))
        note = row["state"].replace("done", "")  # why one failed was said above, and is in the files
        size = [str(row.get("imgsz") or "")] if sized else []
        left = [_number(row.get("multiplications_left"), 3, 1e9)] if counted else []
        left += [_number(row.get("ms"), 1)] if timed else []
        table.row(row["method"] or GIVEN, row["distribution"] or "", f"{row['amount']:g}", *size,
                  _number(row["conv_sparsity"], 3), *left, *numbers, *sizes, note)  # fmt: skip
    return table


def write_page(file: Path, title: str, content: dict[str, Any], figure: Any) -> None:
    """Write the page.

    Args:
        file: Where to.
        title: Heading.
        content: What curve.json holds: command, figures, points, decided_by.
        figure: The picture.
    """
    missing = len(content["points"]) - sum(row["state"] in ("done", "reused") for row in content["points"])
    note = "Sparsity is counted over all Conv2d weights; multiplications are those by weights that are not zero, for"
    note += " one image of the size. MB are those of the checkpoint as fp16, and of a zip of it."
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
        {"method": row["method"] or GIVEN, "distribution": row["distribution"] or "", "amount": f"{row['amount']:g}",
         "size": row.get("imgsz") or "", "sparsity": _number(row["conv_sparsity"], 3),
         "mult. G": _number(row.get("multiplications_left"), 3, 1e9), "ms": _number(row.get("ms"), 1),
         **{label(name, figures): _number(row[name], 4) for name in figures},
         "MB": _number(row["bytes"], 2, 1e6), "MB zipped": _number(row["zip_bytes"], 2, 1e6),
         "FLOPs left": _number(row.get("flops"), 3),
         "": row["reason"] or ("" if row["state"] == "done" else row["state"])}
        for row in sorted(rows, key=lambda row: (*_line_of(row), row["amount"], row.get("imgsz") or 0))
    ]  # fmt: skip
    return pd.DataFrame(shown).to_html(index=False, escape=True, border=0)


def _line_of(row: dict[str, Any]) -> tuple[str, str]:
    """The line of the plot that a point is on; the dense model sorts before all."""
    return row["method"] or "", row["distribution"] or ""


def _number(value: Any, digits: int, unit: float = 1.0) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value / unit:.{digits}f}"
