"""What a person looks at after a search within a budget: budget.csv and budget.png."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from yolov5_prune_plugin.core.pruning.budget import Trial


def trials_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row per measurement, in their order: the fields of Trial."""
    return pd.DataFrame([asdict(trial) for trial in trials])


def plot_trials(trials: Sequence[Trial], floor: float, figure_name: str, title: str, file: Path) -> None:
    """Figure against sparsity: the measurements, numbered in their order, and the floor, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: the run's own figures and backend stay as they are

    frame = trials_frame(trials)
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    line = frame.sort_values("amount", kind="stable")
    axes.plot(line["amount"], line["score"], color="#adb5bd", linewidth=1, zorder=1)
    for inside, colour, label in ((True, "#2a6f97", "inside"), (False, "#e76f51", "outside")):
        part = frame[frame["inside"] == inside]
        axes.scatter(part["amount"], part["score"], color=colour, label=label, zorder=2)
    again = frame[frame["kind"] == "confirmation"]
    axes.scatter(
        again["amount"], again["score"], s=120, facecolors="none", edgecolors="black", label="saved, loaded again"
    )
    for number, trial in enumerate(trials):
        if trial.kind != "confirmation":
            axes.annotate(
                str(number), (trial.amount, trial.score), textcoords="offset points", xytext=(6, 6), fontsize=8
            )
    axes.axhline(floor, color="black", linewidth=0.8, linestyle="--", label="budget")
    axes.set_xlabel("sparsity asked for (0: dense; numbers: order of the trials)")
    axes.set_ylabel(figure_name)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
