"""A figure of two panels over one axis, as a PNG; pyplot stays out of it, so a run's own figures and backend do too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def two_panels(title: str, file: Path, xlabel: str) -> Iterator[tuple[Any, Any]]:
    """Axes to draw on, the upper and the lower one; the PNG is written when they are left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    yield top, bottom
    top.set_title(title, loc="left", fontsize=10)
    bottom.set_xlabel(xlabel)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
