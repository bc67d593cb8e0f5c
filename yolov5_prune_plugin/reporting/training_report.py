"""The record of a sparse training: a line an epoch; report.json, history.csv, layers.csv and plots in its folder."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Optional

import pandas as pd
import torch

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.plugin_api.run import Run, Training
from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.labels import subject
from yolov5_prune_plugin.reporting.layers import layers_frame, layers_table, plot_layers, totals_of, zeros_line
from yolov5_prune_plugin.reporting.next_steps import ours, say_next
from yolov5_prune_plugin.reporting.oneshot_report import NOTE
from yolov5_prune_plugin.reporting.run_folder import Writer, csv_of, json_of, write_report
from yolov5_prune_plugin.reporting.training_figure import plot_history, plot_shared


class TrainingRecord:
    """What is said about one training; kept up to date on disk after each epoch."""

    def __init__(self, run: Run, facts: dict[str, Any], training: Training) -> None:
        """Begin the record.

        Args:
            run: Gives script, weights and folder.
            facts: Plain values for report.json; ``method`` titles the plots.
            training: Read after each epoch.
        """
        self.run, self.training, self.facts = run, training, facts
        self._console = plain_console(quiet=not run.main)

    def begins(self, steps: int, updates: int) -> None:
        """Say how many updates of the masks there will be, and warn if they are few.

        Args:
            steps: Optimizer steps of the training.
            updates: Of the masks.
        """
        masked = self.training.masked
        assert masked is not None
        self.facts["planned_updates"] = updates
        enough = masked.rule.enough
        if not enough:
            return
        many = f"{updates} {'update' if updates == 1 else 'updates'} of the masks"
        self._say(f"{many} in {steps} optimizer steps")
        if updates < enough and not self.training.resumed:
            epochs = math.ceil(self.training.epochs * enough / max(1, updates))
            self._say(
                f"WARNING: {many}: that is nearly a cut all at once, which loses more than pruning little by"
                f" little: about --epochs {epochs} would give {enough}; so would a smaller --batch-size"
            )

    def epoch(self) -> None:
        """Print a line about the epoch, and write the files."""
        masked, last = self.training.masked, self.training.history[-1]
        assert masked is not None
        where = f"epoch {last['epoch']}/{self.training.epochs - 1}, step {last['step']}"
        if "moved" in last:
            self._say(f"{where}: {last['values']:,} shared values, {last['moved']:.2%} from where they began")
        else:
            state = "masks frozen" if masked.frozen else "masks changing"
            self._say(
                f"{where}: {last['sparsity']:.2%} of {masked.weights:,} weights zero, {last['pruned']:,} pruned,"
                f" {last['spliced']:,} spliced, {state}"
            )
        self._write({"history.csv": self._history, "report.json": self._report})

    def end(self) -> None:
        """Print the layers of what was saved, and write all files."""
        masked, saved = self.training.masked, self.training.saved
        assert masked is not None
        if not masked.frozen:
            self._say("the training ended before the masks were frozen: the sparsity that was asked for is not there")
        files: dict[str, Writer] = {"history.csv": self._history, "history.png": self._plot,
                                                   "report.json": self._report}  # fmt: skip
        name = next((name for name in ("best.pt", "last.pt") if name in saved), None)
        if name:
            title = f"{name} of {self.run.arguments.save_dir}, from {self._title()}"
            whole = bool(getattr(self.run.options, "prune_verbose", False))
            self._console.print(layers_table(saved[name], title, whole))
            self._console.print(NOTE, style="dim")
            files["layers.csv"] = csv_of(layers_frame(saved[name]))
            files["layers.png"] = lambda file: plot_layers(saved[name], title, file)
        for name, sparsity in saved.items():
            self._say(f"{name}: {sparsity.conv_sparsity:.2%} of {sparsity.conv_weights:,} conv weights zero,"
                      f" {sparsity.total_sparsity:.2%} of all parameters")  # fmt: skip
            self._say(f"{name}: {zeros_line(sparsity, self.run.image_size(self.training.model))}")
        self._write(files)
        if self.run.main:
            self._console.print(f"report: {self.run.folder}", soft_wrap=True)
            say_next(self._console, self._steps(name))

    def _steps(self, name: Optional[str]) -> dict[str, str]:
        """Measure what came out, pack it, train on if masks are not frozen."""
        if name is None:
            return {}
        file = Path(os.path.relpath(self.run.arguments.save_dir), "weights", name)
        data = ("--data", str(getattr(self.run.arguments, "data", "DATA")))
        return {
            "measure it": self.run.command("val.py", "--weights", str(file), *data),
            "a small file": ours("compress", file, "-o", file.with_suffix(".y5z"), *data),
        }

    def _say(self, text: str) -> None:
        if self.run.main:
            print(f"yolov5-prune: {text}", flush=True)

    def _history(self, file: Path) -> None:
        csv_of(pd.DataFrame(self.training.history))(file)

    def _plot(self, file: Path) -> None:
        assert self.training.masked is not None
        history = self.training.history
        if history and "moved" in history[-1]:
            plot_shared(history, self._title(), file)
        else:
            plot_history(history, self.training.masked.weights, self._title(), file)

    def _title(self) -> str:
        """The model, the data, the way and the amount."""
        amount = next((f" {self.facts[name]:g}" for name in ("requested_sparsity",) if self.facts.get(name)), "")
        bits = self.facts.get("bits")
        return f"{subject(self.run)}: {self.facts['method']}{amount}{f' {chr(32).join(bits)} bits' if bits else ''}"

    def _report(self, file: Path) -> None:
        masked, selection = self.training.masked, self.training.selection
        assert masked is not None
        assert selection is not None
        content = {
            "script": self.run.script, "weights": self.run.weights, **self.facts, "pruned_weights": "unfused",
            "masked_weights": masked.weights, "masked_sparsity": masked.sparsity, "frozen": masked.frozen,
            "steps": masked.step, "updates": masked.updates,
            "saved": {name: totals_of(sparsity) for name, sparsity in self.training.saved.items()},
            "skipped": selection.skipped, "history": self.training.history, "note": NOTE,
            "versions": {"yolov5_prune_plugin": __version__, "torch": torch.__version__},
        }  # fmt: skip
        json_of(content)(file)

    def _write(self, files: dict[str, Writer]) -> None:
        folder = self.run.folder
        if self.run.main and folder is not None:
            write_report(folder, files)
