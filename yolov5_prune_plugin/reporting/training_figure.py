"""What a training looks like over time, as PNGs: its masks, and its BatchNorm scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.reporting.figure import GONE, KEPT, THIRD, two_panels


def plot_history(history: Sequence[Mapping[str, Any]], weights: int, title: str, file: Path) -> None:
    """Draw weights kept after each epoch, and how many were pruned and spliced in it.

    Args:
        history: One entry an epoch: step, sparsity, pruned, spliced.
        weights: How many are masked.
        title: Above the plot.
        file: The PNG.
    """
    steps = [entry["step"] for entry in history]
    with two_panels(title, file, "optimizer steps") as (top, bottom):
        top.plot(steps, [weights * (1 - entry["sparsity"]) for entry in history], color=KEPT, marker=".")
        top.set_ylim(0, weights * 1.02)
        top.set_ylabel(f"weights kept of {weights:,}")
        bottom.plot(steps, [entry["pruned"] for entry in history], color=GONE, marker=".", label="pruned")
        bottom.plot(steps, [entry["spliced"] for entry in history], color=THIRD, marker=".", label="spliced")
        bottom.set_yscale("symlog", linthresh=1)
        bottom.set_ylim(bottom=0)
        bottom.set_ylabel("weights in an epoch")
        bottom.legend(frameon=False)


def plot_shared(history: Sequence[Mapping[str, Any]], title: str, file: Path) -> None:
    """Draw how far shared values have moved from where k-means put them, and how far in each epoch.

    Args:
        history: One entry an epoch: step, moved, moved_in_epoch.
        title: Above the plot.
        file: The PNG.
    """
    steps = [entry["step"] for entry in history]
    with two_panels(title, file, "optimizer steps") as (top, bottom):
        top.plot(steps, [entry["moved"] for entry in history], color=KEPT, marker=".")
        top.set_ylabel("from where they began")
        bottom.plot(steps, [entry["moved_in_epoch"] for entry in history], color=GONE, marker=".")
        bottom.set_ylabel("in an epoch")
        for axes in (top, bottom):
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2%}")


def plot_scales(history: Sequence[Mapping[str, Any]], ready: float, title: str, file: Path) -> None:
    """Draw |gamma| of all layers after each epoch, and the share that is near zero.

    Args:
        history: One entry an epoch, with what ``bn_penalty.summary`` gives.
        ready: The share at which they are called ready.
        title: Above the plot.
        file: The PNG.
    """
    epochs = [entry["epoch"] for entry in history]
    line = {name: [entry[f"gamma_{name}"] for entry in history] for name in ("q10", "q25", "median", "q75", "q90")}
    with two_panels(title, file, "epoch") as (top, bottom):
        top.fill_between(epochs, line["q10"], line["q90"], color=KEPT, alpha=0.2, linewidth=0, label="80% of them")
        top.fill_between(epochs, line["q25"], line["q75"], color=KEPT, alpha=0.4, linewidth=0, label="half of them")
        top.plot(epochs, line["median"], color=KEPT, marker=".", label="median")
        top.set_ylim(bottom=0)
        top.set_ylabel("|gamma|")
        top.legend(frameon=False)
        bottom.plot(epochs, [entry["near_zero"] for entry in history], color=GONE, marker=".")
        bottom.axhline(ready, color="black", linewidth=0.8, linestyle=":", label="ready")
        bottom.set_ylim(0, 1)
        bottom.set_ylabel("share near zero")
        bottom.legend(frameon=False)
