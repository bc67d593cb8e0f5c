"""The record of a search within a budget: one line a trial; budget.json, budget.csv and budget.png in its folder."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from yolov5_prune_plugin.core.pruning.budget import ASSUMES, Trial
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.reporting.budget_figure import plot_trials, trials_frame
from yolov5_prune_plugin.reporting.oneshot_report import LABELS


class BudgetRecord:
    """What is known of a search; kept up to date on disk, so that an interrupted one leaves what it measured.

    Attributes:
        trials: All measurements, in their order.
        floor: The lowest figure that is inside.
        found: What was saved, once it is confirmed.
    """

    def __init__(self, run: Run, points: float, step: float) -> None:
        self.run, self.points, self.step = run, points, step
        self.trials: list[Trial] = []
        self.floor = 0.0
        self.found: dict[str, Any] = {}

    @property
    def figure(self) -> str:
        """What the figure is called in tables."""
        return LABELS.get(self.run.figure, self.run.figure)

    @property
    def monotone(self) -> bool:
        """Whether no sparser model was measured to be better."""
        scores = [trial.score for trial in sorted(self.trials, key=lambda t: t.amount) if trial.kind != "confirmation"]
        return scores == sorted(scores, reverse=True)

    def say(self, text: str) -> None:
        """One line in the terminal."""
        print(f"yolov5-prune: {text}", flush=True)

    def add(self, trial: Trial) -> None:
        """One more measurement."""
        self.trials.append(trial)
        self.write("searching")

    def content(self, state: str) -> dict[str, Any]:
        """What budget.json holds, and report.json under ``budget``."""
        trials = [asdict(trial) for trial in self.trials]
        for trial in trials:
            trial["score"] = None if math.isnan(trial["score"]) else trial["score"]
        return {"points": self.points, "figure": self.run.figure, "floor": self.floor, "step": self.step,
                "state": state, "assumes": ASSUMES, "monotone": self.monotone, "found": self.found or None,
                "trials": trials}  # fmt: skip

    def write(self, state: str) -> None:
        """All three files, if there is anything to write."""
        folder = self.run.folder
        if not self.trials or folder is None:
            return
        title = f"{', '.join(self.run.weights)}: within {self.points:g} points of the dense model"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with written_whole(folder / "budget.json") as file:
                file.write_text(json.dumps(self.content(state), indent=2) + "\n", encoding="utf-8")
            with written_whole(folder / "budget.csv") as file:
                trials_frame(self.trials).to_csv(file, index=False)
            with written_whole(folder / "budget.png") as file:
                plot_trials(self.trials, self.floor, self.figure, title, file)
        except OSError as error:
            raise PruneError(f"the report cannot be written to {folder}: {error}") from error
