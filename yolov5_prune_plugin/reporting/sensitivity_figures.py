"""What a person looks at: the sensitivity of the layers as a table, a heat map and one self-contained page."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from yolov5_prune_plugin.core.pruning.sensitivity import Sensitivity
from yolov5_prune_plugin.reporting.figure import canvas, save_png
from yolov5_prune_plugin.reporting.html_page import html_page
from yolov5_prune_plugin.reporting.tables import Table

SORT = """document.querySelectorAll("th").forEach((head, column) => head.onclick = () => {
  const body = head.closest("table").tBodies[0], down = head.dataset.down = head.dataset.down === "1" ? "" : "1";
  const value = row => { const text = row.cells[column].textContent; return isNaN(text) ? text : +text; };
  [...body.rows].sort((a, b) => (value(a) < value(b) ? -1 : 1) * (down ? -1 : 1)).forEach(row => body.append(row));
});"""
STYLE = "th { cursor: pointer; } tr:nth-child(even) td { background: #f4f4f4; }"


def long_frame(rows: Sequence[Sensitivity]) -> pd.DataFrame:
    """Make one row per layer and amount: layer, shape, weights, amount, share, error."""
    return pd.DataFrame(
        {"layer": row.name, "shape": _shape(row), "weights": row.weights, "amount": amount, "share": share,
         "error": error}
        for row in rows
        for amount, share, error in zip(row.amounts, row.shares, row.errors)
    )  # fmt: skip


def wide_frame(rows: Sequence[Sensitivity], suggested: Mapping[str, float]) -> pd.DataFrame:
    """Make one row per layer: layer, shape, weights, error at each amount, and the suggested share if there is one.

    Args:
        rows: One a layer, all with the same amounts.
        suggested: Share to prune by layer; may be empty.
    """
    frame = pd.DataFrame(
        {"layer": row.name, "shape": _shape(row), "weights": row.weights,
         **{f"at {amount:g}": error for amount, error in zip(row.amounts, row.errors)}}
        for row in rows
    )  # fmt: skip
    if suggested:
        frame["suggested"] = frame["layer"].map(suggested)
    return frame


def extremes_table(
    rows: Sequence[Sensitivity], suggested: Mapping[str, float], amount: float, title: str, count: int = 8
) -> Table:
    """Make a table of the most and the least sensitive layers at one of the amounts, for the terminal.

    Args:
        rows: One a layer, all with the same amounts.
        suggested: Share to prune by layer; may be empty.
        amount: One of the amounts; the rows are sorted by the error at it.
        title: Above the table.
        count: Rows of each kind.
    """
    at = rows[0].amounts.index(amount)
    frame = wide_frame(sorted(rows, key=lambda row: -row.errors[at]), suggested)
    table = Table(title)
    for column in frame.columns:
        table.column(column, "name" if column == "layer" else "number", spare={"shape": 1, "weights": 2}.get(column, 0))
    for position, values in enumerate(frame.itertuples(index=False)):
        if len(frame) > 2 * count and position == count:
            table.row(f"... {len(frame) - 2 * count} layers", style="dim")
        if position < count or position >= len(frame) - count:
            table.row(*(_cell(column, value) for column, value in zip(frame.columns, values)))
    return table


def plot_heat_map(rows: Sequence[Sensitivity], title: str, file: Path) -> None:
    """Draw layers down, amounts across, and the error as colour on a logarithmic scale.

    Args:
        rows: One a layer, all with the same amounts.
        title: Above the plot.
        file: The PNG.
    """
    from matplotlib.colors import LogNorm

    errors = [[error if math.isfinite(error) else math.nan for error in row.errors] for row in rows]
    positive = [error for line in errors for error in line if error > 0] or [1.0]
    least, most = min(positive), max(positive)
    amounts = rows[0].amounts
    figure = canvas(5.5 + 0.5 * len(amounts), max(3.0, 1.5 + 0.17 * len(rows)))
    axes = figure.subplots()
    image = axes.imshow(
        [[max(error, least) for error in line] for line in errors], aspect="auto", cmap="viridis",
        norm=LogNorm(least, max(most, least * 1.01)), interpolation="nearest")  # fmt: skip
    axes.set_xticks(range(len(amounts)), [f"{amount:g}" for amount in amounts])
    axes.set_yticks(range(len(rows)), [row.name.removesuffix(".weight") for row in rows], fontsize=6)
    axes.set_xlabel("share pruned of this layer alone")
    axes.set_title(title, fontsize=9, loc="left", wrap=True)
    figure.colorbar(image, label="error")
    save_png(figure, file)


def page(
    rows: Sequence[Sensitivity], suggested: Mapping[str, float], title: str, notes: Sequence[str], image: bytes
) -> str:
    """Make one HTML page with everything in it; a click on a column's head sorts by it.

    Args:
        rows: One a layer.
        suggested: Amounts by layer; may be empty.
        title: Heading.
        notes: Sentences below it.
        image: The heat map, as PNG.
    """
    table = wide_frame(rows, suggested).to_html(index=False, border=0, float_format=lambda value: f"{value:.4g}")
    picture = base64.b64encode(image).decode("ascii")
    return html_page(
        title, *(f"<p>{html.escape(note)}</p>" for note in notes),
        f'<p><img alt="heat map of layers and amounts" src="data:image/png;base64,{picture}"></p>', table,
        f"<script>{SORT}</script>", style=STYLE)  # fmt: skip


def _shape(row: Sensitivity) -> str:
    return "x".join(map(str, row.shape))


def _cell(column: str, value: Any) -> str:
    if column == "weights":
        return f"{value:,}"
    if column == "suggested":
        return f"{value:.3f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
