"""What a sparse training looks like over time: weights kept, pruned and spliced, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.reporting.panels import two_panels


def plot_history(history: Sequence[Mapping[str, Any]], weights: int, title: str, file: Path) -> None:
    """Weights kept after each epoch, and how many were pruned and spliced in it.

    Args:
        history: One entry an epoch: step, sparsity, pruned, spliced.
        weights: How many are masked.
        title: Above the plot.
        file: The PNG.
    """
    steps = [entry["step"] for entry in history]
    with two_panels(title, file, "optimizer steps") as (top, bottom):
        top.plot(steps, [weights * (1 - entry["sparsity"]) for entry in history], color="#2a6f97", marker=".")
        top.set_ylim(0, weights * 1.02)
        top.set_ylabel(f"weights kept of {weights:,}")
        bottom.plot(steps, [entry["pruned"] for entry in history], color="#e76f51", marker=".", label="pruned")
        bottom.plot(steps, [entry["spliced"] for entry in history], color="#2a9d8f", marker=".", label="spliced")
        bottom.set_yscale("symlog", linthresh=1)
        bottom.set_ylim(bottom=0)
        bottom.set_ylabel("weights in an epoch")
        bottom.legend(frameon=False)
