"""The record of a search within a budget: one line a trial; budget.json, budget.csv and budget.png in its folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from yolov5_prune_plugin.core.pruning.budget import ASSUMES, Trial
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png
from yolov5_prune_plugin.reporting.labels import label, subject
from yolov5_prune_plugin.reporting.run_folder import csv_of, json_of, write_report

RESOLUTION = 0.005  # of a figure on a validation set of usual size: less is noise


class BudgetRecord:
    """What is known of a search; kept up to date on disk, so that an interrupted one leaves what it measured.

    Attributes:
        trials: All measurements, in their order.
        floor: The lowest figure that is inside.
        found: What was saved, once it is confirmed.
    """

    def __init__(self, run: Run, points: float, step: float) -> None:
        """Begin the record, without measurements.

        Args:
            run: Gives the names of weights and figure, and the folder.
            points: Hundredths of the figure that may be lost.
            step: Difference of sparsities at which the search ends.
        """
        self.run, self.points, self.step = run, points, step
        self.trials: list[Trial] = []
        self.floor = 0.0
        self.found: dict[str, Any] = {}

    @property
    def figure(self) -> str:
        """Name of the figure in tables."""
        return label(self.run.figure)

    @property
    def monotone(self) -> bool:
        """Whether no sparser model was measured to be better, beyond what such a measurement can tell apart."""
        scores = [trial.score for trial in sorted(self.trials, key=lambda t: t.amount) if trial.kind != "confirmation"]
        return all(later <= min(scores[: index + 1]) + RESOLUTION for index, later in enumerate(scores))

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"yolov5-prune: {text}", flush=True)

    def add(self, trial: Trial) -> None:
        """Add a measurement, and write the files."""
        self.trials.append(trial)
        self.write("searching")

    def content(self, state: str) -> dict[str, Any]:
        """Give what budget.json holds, and report.json under ``budget``."""
        trials = [asdict(trial) for trial in self.trials]
        for trial in trials:
            trial["score"] = None if math.isnan(trial["score"]) else trial["score"]
        return {"points": self.points, "figure": self.run.figure, "floor": self.floor, "step": self.step,
                "state": state, "assumes": ASSUMES, "monotone": self.monotone, "found": self.found or None,
                "trials": trials}  # fmt: skip

    def write(self, state: str) -> None:
        """Write all three files, if there is anything to write."""
        folder = self.run.folder
        if not self.trials or folder is None:
            return
        title = f"{subject(self.run)}: within {self.points:g} points of the model as given"
        write_report(folder, {
            "budget.json": json_of(self.content(state)),
            "budget.csv": csv_of(trials_frame(self.trials)),
            "budget.png": lambda file: plot_trials(self.trials, self.floor, self.figure, title, file),
        })  # fmt: skip


def trials_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """Make one row per measurement, in their order: the fields of Trial."""
    return pd.DataFrame([asdict(trial) for trial in trials])


def plot_trials(trials: Sequence[Trial], floor: float, figure_name: str, title: str, file: Path) -> None:
    """Draw the figure against sparsity: the measurements, numbered in their order, and the floor.

    Args:
        trials: The measurements.
        floor: The lowest figure that is inside.
        figure_name: What is measured.
        title: Above the plot.
        file: The PNG.
    """
    frame = trials_frame(trials)
    figure = canvas(8.0, 5.0)
    axes = figure.subplots()
    line = frame.sort_values("amount", kind="stable")
    axes.plot(line["amount"], line["score"], color="#adb5bd", linewidth=1, zorder=1)
    for inside, colour, name in ((True, KEPT, "inside"), (False, GONE, "outside")):
        part = frame[frame["inside"] == inside]
        axes.scatter(part["amount"], part["score"], color=colour, label=name, zorder=2)
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
    axes.set_xlabel("sparsity asked for (0: as given; numbers: order of the trials)")
    axes.set_ylabel(figure_name)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False)
    open_frame(axes)
    save_png(figure, file)
