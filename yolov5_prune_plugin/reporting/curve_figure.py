"""The picture of a curve: a figure of the script's against sparsity and against the size when zipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from yolov5_prune_plugin.reporting.oneshot_report import LABELS

MARKERS = "os^Dv*PX"


def headlines(figures: Sequence[str]) -> list[str]:
    """The figures that a curve is drawn of: each mAP50-95, or the first if the script has none."""
    return [name for name in figures if name == "map" or name.endswith("_map")] or [figures[0]]


def draw(rows: Sequence[dict[str, Any]], figures: Sequence[str], title: str) -> Figure:
    """One line for each method and distribution; the dense model begins all of them.

    Args:
        rows: Points, with method, distribution, conv_sparsity, zip_bytes and the figures; those without are left out.
        figures: Names of the script's figures.
        title: Above it.
    """
    drawn = headlines(figures)
    figure = Figure(figsize=(11, 4.6 * len(drawn)), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: the backend stays as it is
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    axes = figure.subplots(len(drawn), 2, squeeze=False, sharey="row")
    lines = _lines(rows)
    for name, (left, right) in zip(drawn, axes):
        _panel(left, lines, name, "conv_sparsity", 1.0)
        _panel(right, lines, name, "zip_bytes", 1e6)
        left.set_ylabel(LABELS.get(name, name))
        left.set_ylim(bottom=0)
        left.set_xlim(left=0)
        left.set_xlabel("share of the conv weights that is zero")
        right.set_xlabel("MB of the checkpoint (fp16) when zipped")
    if lines:
        axes[0][0].legend(frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, lines: dict[str, list[dict[str, Any]]], name: str, across: str, unit: float) -> None:
    for index, (label, rows) in enumerate(lines.items()):
        points = [(row[across] / unit, row[name]) for row in rows if row[across] is not None]
        axes.plot(*zip(*points) if points else ((), ()), marker=MARKERS[index % len(MARKERS)], markersize=4,
                  color=f"C{index % 10}", linewidth=1.4, label=label)  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _lines(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Measured points by line, in the order of their amounts."""
    done = [row for row in rows if row["state"] in ("done", "reused")]
    dense = [row for row in done if row["method"] is None]
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in done:
        if row["method"] is not None:
            lines.setdefault(f"{row['method']}, {row['distribution']}", []).append(row)
    lines = {label: sorted([*dense, *line], key=lambda row: row["amount"]) for label, line in sorted(lines.items())}
    return lines or ({"dense": dense} if dense else {})
