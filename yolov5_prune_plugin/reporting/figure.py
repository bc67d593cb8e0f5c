"""Figures: a canvas without pyplot, so that a run's own figures and backend stay as they are, and how ours look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEPT, GONE, THIRD = "#2a6f97", "#e76f51", "#2a9d8f"  # colours


def canvas(width: float, height: float) -> Any:
    """Make an empty matplotlib figure.

    Args:
        width: Inches.
        height: Inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Any, file: Path) -> None:
    """Write a figure as a PNG of 120 dots an inch.

    Args:
        figure: From ``canvas``.
        file: Where to.
    """
    figure.savefig(file, dpi=120, format="png")


def open_frame(*many: Any) -> None:
    """Leave out the upper and right lines of axes."""
    for axes in many:
        axes.spines[["top", "right"]].set_visible(False)


@contextmanager
def two_panels(title: str, file: Path, xlabel: str) -> Iterator[tuple[Any, Any]]:
    """Draw two panels over one axis; the PNG is written when the block is left.

    Args:
        title: Above them.
        file: The PNG.
        xlabel: Of the axis.

    Yields:
        The upper and the lower axes.
    """
    figure = canvas(8.0, 6.0)
    top, bottom = figure.subplots(2, 1, sharex=True)
    yield top, bottom
    top.set_title(title, loc="left", fontsize=10)
    bottom.set_xlabel(xlabel)
    open_frame(top, bottom)
    save_png(figure, file)
