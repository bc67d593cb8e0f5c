"""What an INT8 quantisation says: a table in the terminal; report.json, layers.csv and layers.png in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png
from yolov5_prune_plugin.reporting.run_folder import csv_of, json_of, write_report

SHOWN = 10  # layers in the terminal's list
KINDS = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


class QuantizeReport:
    """Everything that is said about one quantisation."""

    def __init__(
        self, console: Console, output: Path, weights: str, kind: str, figure: str, size: tuple[int, int]
    ) -> None:
        """Begin the report.

        Args:
            console: Where to print.
            output: The INT8 model.
            weights: What it is made of.
            kind: ``onnx`` or ``openvino``.
            figure: What a validation is judged by.
            size: Height and width of images.
        """
        self._console, self._output, self._figure = console, output, figure
        self._facts: dict[str, Any] = {"weights": weights, "output": str(output), "runtime": KINDS[kind],
                                       "imgsz": list(size), "tried": []}  # fmt: skip

    def chosen_on(self, number: int) -> None:
        """Say on how many training images layers are chosen."""
        self._facts["budget_images"] = number
        self._console.print(f"layers are chosen on {number} training images that calibration has not seen")

    def tried(self, number: int, before: float, after: float) -> None:
        """Say how one try of a budget went.

        Args:
            number: Layers in floating point.
            before: The figure in floating point.
            after: The figure in INT8.
        """
        self._facts["tried"].append({"fp32_layers": number, self._figure: after})
        self._console.print(f"{number} more layers in floating point: {self._figure} there {after:.4f} ({before:.4f} in"
                            " fp32)", soft_wrap=True)  # fmt: skip

    def lost_more(self, lost: float, points: float) -> bool:
        """Say if more is lost on the val split than a budget.

        Args:
            lost: Of the figure.
            points: The budget.
        """
        if lost > points:
            self._console.print(f"the val split, by which nothing was chosen, lost {100 * lost:.2f} points of"
                                f" {self._figure}, more than --budget {100 * points:g}; a smaller one leaves more"
                                " layers in floating point", soft_wrap=True)  # fmt: skip
        return lost > points

    def done(
        self,
        errors: dict[str, float],
        kept: Sequence[str],
        before: Optional[dict[str, float]],
        after: Optional[dict[str, float]],
        times: Optional[dict[str, Any]],
        bytes_before: int,
        bytes_after: int,
        ends: int,
    ) -> None:
        """Print the table, and write the files.

        Args:
            errors: Of each layer when it alone is INT8.
            kept: Layers that stay in floating point, beside the first and the last ones.
            before: Figures in floating point; None without a validation.
            after: Figures in INT8.
            times: Of both, side by side; None if they were not taken.
            bytes_before: Of the exported model in floating point.
            bytes_after: Of the INT8 one.
            ends: How many the first and the last ones are.
        """
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("", "fp32", "INT8", "change"):
            table.add_column(column, justify="right" if column else "left")
        for name in before or {}:
            assert before is not None
            assert after is not None
            table.add_row(name, f"{before[name]:.4f}", f"{after[name]:.4f}", f"{after[name] - before[name]:+.4f}")
        table.add_row("bytes", f"{bytes_before:,}", f"{bytes_after:,}", f"{bytes_before / bytes_after:.2f}x smaller")
        if times:
            spread = f"{times['faster']:.2f}x faster ({times['faster_low']:.2f}-{times['faster_high']:.2f})"
            table.add_row(f"ms a frame, {times['threads']} threads", f"{times['fp32_ms']:.1f}",
                          f"{times['int8_ms']:.1f}", spread)  # fmt: skip
        self._console.print(table)
        named = ", ".join(kept[:SHOWN]) + (f" and {len(kept) - SHOWN} more" if len(kept) > SHOWN else "")
        stay = (
            f"{len(kept) + ends} of {len(errors) + ends} layers stay in floating point: {ends}, the first and the last"
        )
        if kept:
            stay += f", and {named} (they cost most on images that were not calibrated with)"
        self._console.print(f"{stay}; so does what decodes boxes", soft_wrap=True)
        self._facts.update({"before": before, "after": after, "times": times, "bytes_before": bytes_before,
                            "bytes_after": bytes_after, "fp32_layers": list(kept), "end_layers": ends})  # fmt: skip
        frame = pd.DataFrame({"layer": list(errors), "error": list(errors.values()),
                              "int8": [name not in set(kept) for name in errors]})  # fmt: skip
        folder = self._output.with_name(f"{self._output.stem}_quantize")
        write_report(folder, {
            "report.json": json_of(self._facts),
            "layers.csv": csv_of(frame),
            "layers.png": lambda file: _plot(frame, self._facts["weights"], file),
        })  # fmt: skip
        self._console.print(f"{self._output}: INT8, for {self._facts['runtime']}; try it:"
                            f" python val.py --weights {self._output} --data DATA", soft_wrap=True)  # fmt: skip
        self._console.print(f"report: {folder}", soft_wrap=True)


def _plot(frame: pd.DataFrame, weights: str, file: Path) -> None:
    figure = canvas(8.0, 1.2 + 0.16 * len(frame))
    axes = figure.subplots()
    colours = [KEPT if quantised else GONE for quantised in frame["int8"]]
    axes.barh(range(len(frame)), frame["error"].clip(lower=1e-12), color=colours)
    axes.set_yticks(range(len(frame)), frame["layer"], fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("error of the outputs when this layer alone is INT8, relative")
    axes.set_title(f"{Path(weights).name}: INT8 (blue) and floating point (orange)", loc="left", fontsize=10)
    open_frame(axes)
    save_png(figure, file)
