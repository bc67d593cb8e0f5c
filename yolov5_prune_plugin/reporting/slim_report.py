"""What a slimming says: tables in the terminal; report.json, widths.csv and widths.png in a folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from yolov5_prune_plugin.core.channels.slim import SlimResult
from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png
from yolov5_prune_plugin.reporting.run_folder import csv_of, json_of, write_report

SHOWN = 6  # names of layers in a line


@dataclass(frozen=True)
class Written:
    """The file of a slim model, and what its validation gave.

    Attributes:
        file: The checkpoint.
        figure: What is measured: map, mask_map or top1; empty without a validation.
        dense: The dense model's.
        slim: The slim one's; None without a validation.
    """

    file: Path
    figure: str = ""
    dense: float = 0.0
    slim: Optional[float] = None


class Report:
    """Everything that is said about one slimming."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        """Begin the report.

        Args:
            folder: For the files.
            facts: Plain values for report.json.
        """
        self._console = plain_console()
        self._folder = folder
        self.content: dict[str, Any] = {**facts, "said": []}

    def say(self, line: str) -> None:
        """Print a line, and keep it."""
        self.content["said"].append(line)
        self._console.print(line, soft_wrap=True)

    def measured(self, which: str, figure: str, value: float) -> None:
        """Note and print what a validation gave.

        Args:
            which: ``dense`` or ``slim``.
            figure: What was measured.
            value: Of it, in [0, 1].
        """
        self.content[which] = {figure: value}
        self._console.print(f"{which}: {figure} {value:.4f}")

    def done(self, slimmed: SlimResult, written: Optional[Written] = None) -> None:
        """Print the tables and write the files.

        Args:
            slimmed: What was done.
            written: The file, if one was written.

        Raises:
            PruneError: If the report can't be written; the model is.
        """
        self._console.print(_widths(slimmed))
        by_reason: dict[str, list[str]] = {}
        for name, reason in slimmed.kept.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            self.say(f"kept whole, as {reason}: {', '.join(names[:SHOWN])}{more}")
        for repaired in slimmed.repairs:
            tried = ", ".join(f"{name} {value:.3g}" for name, value in repaired.distances.items())
            self.say(f"repair kept: {repaired.kept} (distance to the unslimmed outputs on held-out images: {tried})")
        self._console.print(_costs(slimmed, written))
        self.content.update(
            widths=slimmed.widths, kept=slimmed.kept, before=slimmed.before, after=slimmed.after,
            latency=slimmed.latency, repairs=[asdict(one) for one in slimmed.repairs])  # fmt: skip
        if written:
            self.content.update(file=str(written.file), slim={written.figure: written.slim} if written.figure else {})
        self._write(slimmed)

    def _write(self, slimmed: SlimResult) -> None:
        frame = pd.DataFrame(
            [(name, *pair) for name, pair in slimmed.widths.items()], columns=["name", "before", "after"]
        )
        write_report(self._folder, {
            "report.json": json_of(self.content),
            "widths.csv": csv_of(frame),
            "widths.png": lambda file: _plot(frame, file),
        })  # fmt: skip
        self._console.print(f"report: {self._folder}", soft_wrap=True)


def _widths(slimmed: SlimResult) -> Table:
    table = Table(title="channels", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    for column in ("before", "after", "left"):
        table.add_column(column, justify="right")
    for name, (before, after) in slimmed.widths.items():
        table.add_row(Text(name), str(before), str(after), f"{after / before:.2f}")
    return table


def _costs(slimmed: SlimResult, written: Optional[Written]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "dense", "slim", "left"):
        table.add_column(column, justify="left" if not column else "right")
    for name, unit, scale in (("params", "M", 1e6), ("flops", "G", 1e9)):
        before, after = slimmed.before[name], slimmed.after[name]
        table.add_row(name, f"{before / scale:.3f} {unit}", f"{after / scale:.3f} {unit}", f"{after / before:.3f}")
    if slimmed.latency is not None:
        table.add_row("latency, as measured", "", "", f"{slimmed.latency:.3f}")
    if written:
        table.add_row("bytes of the file", "", f"{written.file.stat().st_size:,}", "")
    if written and written.slim is not None:
        share = f"{written.slim / written.dense:.3f}" if written.dense else "-"
        table.add_row(written.figure, f"{written.dense:.4f}", f"{written.slim:.4f}", share)
    return table


def _plot(frame: pd.DataFrame, file: Path) -> None:
    figure = canvas(max(8.0, 0.16 * len(frame)), 4.5)
    axes = figure.subplots()
    x = range(len(frame))
    axes.bar(x, frame["after"], color=KEPT, label="kept")
    axes.bar(x, frame["before"] - frame["after"], bottom=frame["after"], color=GONE, label="removed")
    axes.set_ylabel("channels")
    axes.set_xticks(list(x), frame["name"], rotation=90, fontsize=6)
    open_frame(axes)
    axes.margins(x=0.01)
    axes.legend(frameon=False)
    save_png(figure, file)
