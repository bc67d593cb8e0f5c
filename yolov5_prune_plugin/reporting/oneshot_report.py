"""The record of a pruned run: tables in the terminal; report.json, layers.csv, .png and amounts.yaml in its folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Optional

import torch

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.core.pruning.amounts import amounts_of
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.sparsity import Sparsity
from yolov5_prune_plugin.options import with_flags, without_flags
from yolov5_prune_plugin.plugin_api.run import Evaluation, Run, Saved
from yolov5_prune_plugin.reporting.amounts_file import write_amounts
from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.labels import GIVEN, label, subject
from yolov5_prune_plugin.reporting.layers import layers_frame, layers_table, plot_layers, totals_of
from yolov5_prune_plugin.reporting.next_steps import ours, say_next
from yolov5_prune_plugin.reporting.run_folder import csv_of, json_of, write_report
from yolov5_prune_plugin.reporting.tables import Table

NOTE = (
    "Zeros alone make neither the model faster nor its file smaller: dense kernels multiply by them, and they are"
    " stored like any other number."
)
TOO_MUCH = "this pruning takes too much of a model that is not trained again"
RUINED = 0.9  # share of the figure that is left: less is too little for a model that is used as it is
MOVED = 0.1  # distance of the outputs, in nats an object, above which the figures suffer


class Record:
    """Everything that is said about one pruned model; kept up to date on disk as more becomes known."""

    def __init__(self, run: Run, facts: dict[str, Any], sparsity: Sparsity) -> None:
        """Begin the record.

        Args:
            run: Gives script, weights and folder.
            facts: Plain values for report.json, such as method, distribution, granularity and seconds.
            sparsity: The pruned model's zeros.
        """
        self.run, self.sparsity = run, sparsity
        self.content: dict[str, Any] = {
            "script": run.script,
            "weights": run.weights,
            **facts,
            **totals_of(sparsity),
            "skipped": {layer.name: layer.skipped for layer in sparsity.layers if layer.skipped},
            "note": "" if getattr(run.options, "sparse_runtime", False) else NOTE,
            "versions": {"yolov5_prune_plugin": __version__, "torch": torch.__version__},
            **_data_of(run),
        }
        self._seconds = float(facts.get("seconds", 0))
        self._console = plain_console(quiet=not run.main)

    def layers(self) -> None:
        """Print the layers, and write all four files."""
        how = [self.content[key] for key in ("method", "distribution", "granularity")]
        asked = self.content.get("requested_sparsity")
        much = "by layer" if self.content["distribution"] == "amounts" else f"--prune {asked:g}"
        title = f"{subject(self.run)}: {much} ({', '.join(how)})"
        whole = bool(getattr(self.run.options, "prune_verbose", False))
        said = f"{title}; {self.content['pruned_weights']} weights, {self._seconds:.2f} s"
        self._console.print(layers_table(self.sparsity, said, whole))
        if self.content["note"]:
            self._console.print(self.content["note"], style="dim")
        if self.run.main and self.run.folder:
            amounts = amounts_of(self.sparsity, Granularity.parse(self.content["granularity"]))
            write_report(self.run.folder, {
                "layers.csv": csv_of(layers_frame(self.sparsity)),
                "layers.png": lambda file: plot_layers(self.sparsity, title, file),
                "amounts.yaml": lambda file: write_amounts(file, amounts),
                "report.json": json_of(self.content),
            })  # fmt: skip

    def saved(self, saved: Saved) -> None:
        """Say what was saved, and note it in the report."""
        self.content["saved"] = {"file": str(saved.file), "weights": saved.weights, "bytes": saved.bytes,
                                 "largest_difference": saved.largest_difference}  # fmt: skip
        how = {
            "unfused": "unfused weights with every zero of the pruned model, so that train.py can start from it too",
            "fused": "the weights as pruned; BatchNorm is folded into them, so train.py should not start from it",
        }[saved.weights]
        self._console.print(
            f"saved {saved.file}: fp16, {saved.bytes / 1e6:.2f} MB, {how}. Reloaded and compared: every zero is there,"
            f" largest difference of a weight {saved.largest_difference:.3g}",
            soft_wrap=True,
        )
        self._write()

    def evaluated(self, evaluation: Evaluation, baseline: Optional[Evaluation]) -> None:
        """Add what the script measured; print it beside that of the model as given if that was measured too.

        Args:
            evaluation: Of the pruned model.
            baseline: Of the model as given, if it was measured.
        """
        self.content.update(_numbers(evaluation))
        for name, one in ((GIVEN, baseline), ("pruned", evaluation)):
            if one and one.failed:
                self.content["failed"] = f"{name}: {one.failed}"
                self._console.print(f"NOT A MEASUREMENT ({name}): {one.failed}", style="red")
        if baseline and baseline.batch_size != evaluation.batch_size:
            self._console.print(f"the model {GIVEN} was measured with --batch-size {baseline.batch_size}, pruned with"
                                f" {evaluation.batch_size}: images are padded a little differently")  # fmt: skip
        if baseline:
            self.content["baseline"] = _numbers(baseline)
            self._console.print(comparison_table(baseline, evaluation))
        elif evaluation.figures:
            what = "not a measurement: " if evaluation.failed else ""
            figures = "  ".join(
                f"{label(name, evaluation.figures)} {value:.4f}" for name, value in evaluation.figures.items()
            )
            self._console.print(f"pruned {self.sparsity.conv_sparsity:.1%} of the conv weights: {what}{figures}")
        self.finished(evaluation, baseline)

    def moved(self, error: float) -> None:
        """Note how far the outputs moved on the first images, as ``outputs.objective.distance`` has it."""
        self.content["outputs_moved"] = error if math.isfinite(error) else None

    def finished(self, evaluation: Optional[Evaluation] = None, baseline: Optional[Evaluation] = None) -> None:
        """Say whether too much was lost, where the report is, and what to do next.

        Args:
            evaluation: What the script measured, if it measures.
            baseline: Of the model as given, if it was measured.
        """
        lost = self._lost(evaluation, baseline)
        if lost:
            self.content["lost"] = lost
            self._console.print(f"WARNING: {lost}", style="yellow", soft_wrap=True)
        self._write()
        if self.run.folder:
            self._console.print(f"report: {self.run.folder}", soft_wrap=True)
        if not (evaluation and evaluation.failed):
            say_next(
                self._console, {**(self._milder() if lost else {}), **self._steps(evaluation, baseline, bool(lost))}
            )

    def _lost(self, evaluation: Optional[Evaluation], baseline: Optional[Evaluation]) -> str:
        """What this pruning ruined; empty if it did not, or if nothing is known."""
        name = self.run.figure
        if evaluation and evaluation.failed:
            return ""
        if evaluation and baseline and name in baseline.figures:
            before, after = baseline.figures[name], evaluation.figures[name]
            if before <= 0 or after >= RUINED * before:
                return ""
            return f"{label(name, baseline.figures)} fell from {before:.3f} to {after:.3f}: {TOO_MUCH}"
        moved = self.content.get("outputs_moved", 0.0)
        if moved is not None and moved <= MOVED:
            return ""
        if moved is None:
            return f"the outputs on the first images are no numbers any more: {TOO_MUCH}"
        return f"the outputs on the first images moved by {moved:.2f}; above {MOVED:g} accuracy suffers: {TOO_MUCH}"

    def _milder(self) -> dict[str, str]:
        """Commands that keep more of the model at the same amount."""
        method, distribution = self.content["method"], self.content["distribution"]
        if distribution == "amounts" or Granularity.parse(self.content["granularity"]).kind != "weight":
            return {}
        words, steps = without_flags(self.run.words, "--prune-save", "--prune-distribution"), {}
        if distribution == "uniform" and method != "obs":
            steps["one threshold for all layers keeps more"] = self.run.command(
                self.run.script, *words, "--prune-distribution", "global"
            )
        if method != "obs" and self.run.role == "validate":  # it looks at images of --data
            steps["second order, on images of --data, keeps most"] = self.run.command(
                self.run.script, *with_flags(words, "--prune-method", "obs")
            )
        return steps

    def _steps(self, evaluation: Optional[Evaluation], baseline: Optional[Evaluation], lost: bool) -> dict[str, str]:
        saved, steps = self.content.get("saved"), dict[str, str]()
        if saved:
            file = str(saved["file"])
            data = (
                ["--data", str(self.run.arguments.data)] if evaluation and hasattr(self.run.arguments, "data") else []
            )
            if not lost:
                small = Path(file).with_suffix(".y5z")
                steps["a small file"] = ours("compress", file, "-o", small, *data)
            if data and saved["weights"] == "unfused":
                weights = "--model" if self.run.script.startswith("classify/") else "--weights"
                how = (weights, file, *data, "--keep-zeros")
                steps["more accuracy: train with these zeros"] = self.run.command("train.py", *how)
        elif evaluation:
            if not baseline:
                steps["what it lost: the model as given beside it"] = self.run.again("--prune-baseline")
            if len(self.run.weights) == 1 and not lost:
                name = f"{Path(self.run.weights[0]).stem}-pruned.pt"
                steps["keep it as a checkpoint"] = self.run.again("--prune-save", name)
        return steps

    def _write(self) -> None:
        if self.run.main and self.run.folder:
            write_report(self.run.folder, {"report.json": json_of(self.content)})


def comparison_table(given: Evaluation, pruned: Evaluation) -> Table:
    """Make a table of the model as given, pruned and difference, for every figure that both have.

    Args:
        given: What was measured of the model as given.
        pruned: What was measured of the pruned one.
    """
    table = Table()
    table.column("", "text")
    for column, one in ((GIVEN, given), ("pruned", pruned)):
        table.column(f"{column} (not a measurement)" if one.failed else column)
    table.column("difference")
    for name in given.figures:
        _add(table, label(name, given.figures), given.figures[name], pruned.figures[name])
    if given.coco and pruned.coco:
        table.section()
        for name in given.coco:
            _add(table, name, given.coco[name], pruned.coco[name])
    return table


def _add(table: Table, name: str, given: float, pruned: float) -> None:
    if given < 0 or pruned < 0:  # pycocotools' -1: no such objects
        table.row(name, "-", "-", "-")
    else:
        table.row(name, f"{given:.4f}", f"{pruned:.4f}", f"{pruned - given:+.4f}")


def _data_of(run: Run) -> dict[str, Any]:
    """What was measured on: plain values for report.json."""
    found = {name: getattr(run.arguments, name, None) for name in ("data", "task", "imgsz", "batch_size")}
    if run.role != "validate":
        return {}
    return {"data": str(found["data"]), "split": str(found["task"] or "val"), "imgsz": found["imgsz"]}


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    numbers: dict[str, Any] = dict(evaluation.figures)
    if evaluation.images is not None:
        numbers["images"] = evaluation.images
    if evaluation.batch_size:
        numbers["batch_size"] = evaluation.batch_size
    if evaluation.failed:
        numbers["failed"] = evaluation.failed
    if evaluation.ms:
        numbers["ms_per_image"] = evaluation.ms
    if evaluation.coco:
        numbers["coco"] = {name: None if value < 0 else value for name, value in evaluation.coco.items()}
    return numbers
