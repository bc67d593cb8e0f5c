"""The record of a pruned run: tables in the terminal; report.json, layers.csv, .png and amounts.yaml in its folder."""

from __future__ import annotations

from typing import Any, Optional

import torch
from rich import box
from rich.table import Table

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.core.pruning.amounts import amounts_of
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.sparsity import Sparsity
from yolov5_prune_plugin.plugin_api.run import Evaluation, Run, Saved
from yolov5_prune_plugin.reporting.amounts_file import write_amounts
from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.run_folder import csv_of, json_of, write_report

NOTE = (
    "Zeros alone make neither the model faster nor its file smaller: dense kernels multiply by them, and they are"
    " stored like any other number."
)
LABELS = {"precision": "P", "recall": "R", "map50": "mAP50", "map": "mAP50-95", "mask_map": "mask mAP50-95"}


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
            "conv_sparsity": sparsity.conv_sparsity,
            "total_sparsity": sparsity.total_sparsity,
            "conv_zeros": sparsity.conv_zeros,
            "conv_weights": sparsity.conv_weights,
            "zeros": sparsity.zeros,
            "parameters": sparsity.parameters,
            "skipped": {layer.name: layer.skipped for layer in sparsity.layers if layer.skipped},
            "note": "" if getattr(run.options, "sparse_runtime", False) else NOTE,
            "versions": {"yolov5_prune_plugin": __version__, "torch": torch.__version__},
        }
        self._console = plain_console(quiet=not run.main)

    def layers(self) -> None:
        """Print the layers, and write all four files."""
        from yolov5_prune_plugin.reporting.layers import layers_frame, layers_table, plot_layers

        how = [self.content[key] for key in ("method", "distribution", "granularity")]
        title = (
            f"{', '.join(self.run.weights)} pruned: {', '.join(how)}, {self.content['pruned_weights']} weights,"
            f" {self.content['seconds']:.2f} s"
        )
        self._console.print(layers_table(self.sparsity, title))
        if self.content["note"]:
            self._console.print(self.content["note"], style="dim")
        if self.run.main and self.run.folder:
            amounts = amounts_of(self.sparsity, Granularity.parse(self.content["granularity"]))
            write_report(self.run.folder, {
                "layers.csv": csv_of(layers_frame(self.sparsity)),
                "layers.png": lambda file: plot_layers(self.sparsity, title, file),
                "amounts.yaml": lambda file: write_amounts(file, amounts),
            })  # fmt: skip
        self._write()

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
        """Add what the script measured; print it beside the dense model's if that was measured too.

        Args:
            evaluation: Of the pruned model.
            baseline: Of the dense model, if it was measured.
        """
        self.content.update(_numbers(evaluation))
        for name, one in (("dense", baseline), ("pruned", evaluation)):
            if one and one.failed:
                self.content["failed"] = f"{name}: {one.failed}"
                self._console.print(f"NOT A MEASUREMENT ({name}): {one.failed}", style="red")
        if baseline and baseline.batch_size != evaluation.batch_size:
            self._console.print(f"dense was measured with --batch-size {baseline.batch_size}, pruned with"
                                f" {evaluation.batch_size}: images are padded a little differently")  # fmt: skip
        if baseline:
            self.content["baseline"] = _numbers(baseline)
            self._console.print(comparison_table(baseline, evaluation))
        elif evaluation.figures:
            what = "not a measurement: " if evaluation.failed else ""
            figures = "  ".join(f"{LABELS.get(name, name)} {value:.4f}" for name, value in evaluation.figures.items())
            self._console.print(f"pruned {self.sparsity.conv_sparsity:.1%} of the conv weights: {what}{figures}")
        self._write()
        if self.run.folder:
            self._console.print(f"report: {self.run.folder}", soft_wrap=True)

    def _write(self) -> None:
        if self.run.main and self.run.folder:
            write_report(self.run.folder, {"report.json": json_of(self.content)})


def comparison_table(dense: Evaluation, pruned: Evaluation) -> Table:
    """Make a table of dense, pruned and difference, for every figure that both have.

    Args:
        dense: What was measured of the dense model.
        pruned: What was measured of the pruned one.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column, one in (("dense", dense), ("pruned", pruned)):
        table.add_column(f"{column} (not a measurement)" if one.failed else column, justify="right")
    table.add_column("difference", justify="right")
    for name in dense.figures:
        _add(table, LABELS.get(name, name), dense.figures[name], pruned.figures[name], 4)
    for name in dense.ms:
        _add(table, f"{name} ms/image", dense.ms[name], pruned.ms[name], 1)
    if dense.coco and pruned.coco:
        table.add_section()
        for name in dense.coco:
            _add(table, name, dense.coco[name], pruned.coco[name], 4)
    return table


def _add(table: Table, name: str, dense: float, pruned: float, digits: int) -> None:
    if dense < 0 or pruned < 0:  # pycocotools' -1: no such objects
        table.add_row(name, "-", "-", "-")
    else:
        table.add_row(name, f"{dense:.{digits}f}", f"{pruned:.{digits}f}", f"{pruned - dense:+.{digits}f}")


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    numbers: dict[str, Any] = dict(evaluation.figures)
    if evaluation.batch_size:
        numbers["batch_size"] = evaluation.batch_size
    if evaluation.failed:
        numbers["failed"] = evaluation.failed
    if evaluation.ms:
        numbers["ms_per_image"] = evaluation.ms
    if evaluation.coco:
        numbers["coco"] = {name: None if value < 0 else value for name, value in evaluation.coco.items()}
    return numbers
