"""What BatchNorm scales look like over a training: their quantiles and how many are near zero, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.reporting.panels import two_panels

BLUE = "#2a6f97"


def plot_scales(history: Sequence[Mapping[str, Any]], ready: float, title: str, file: Path) -> None:
    """|gamma| of all layers after each epoch, and the share that is near zero.

    Args:
        history: One entry an epoch, with what ``scales.summary`` gives.
        ready: The share at which they are called ready.
        title: Above the plot.
        file: The PNG.
    """
    epochs = [entry["epoch"] for entry in history]
    line = {name: [entry[f"gamma_{name}"] for entry in history] for name in ("q10", "q25", "median", "q75", "q90")}
    with two_panels(title, file, "epoch") as (top, bottom):
        top.fill_between(epochs, line["q10"], line["q90"], color=BLUE, alpha=0.2, linewidth=0, label="80% of them")
        top.fill_between(epochs, line["q25"], line["q75"], color=BLUE, alpha=0.4, linewidth=0, label="half of them")
        top.plot(epochs, line["median"], color=BLUE, marker=".", label="median")
        top.set_ylim(bottom=0)
        top.set_ylabel("|gamma|")
        top.legend(frameon=False)
        bottom.plot(epochs, [entry["near_zero"] for entry in history], color="#e76f51", marker=".")
        bottom.axhline(ready, color="black", linewidth=0.8, linestyle=":", label="ready")
        bottom.set_ylim(0, 1)
        bottom.set_ylabel("share near zero")
        bottom.legend(frameon=False)
