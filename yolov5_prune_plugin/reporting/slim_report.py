"""What a slimming says: tables in the terminal; report.json, widths.csv and widths.png in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import pandas as pd

from yolov5_prune_plugin.core.channels.slim import SlimResult
from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png
from yolov5_prune_plugin.reporting.labels import label
from yolov5_prune_plugin.reporting.next_steps import say_next
from yolov5_prune_plugin.reporting.run_folder import csv_of, json_of, write_report
from yolov5_prune_plugin.reporting.tables import Table

SHOWN = 6  # names of layers in a line
LAYERS = 10  # in a table


@dataclass(frozen=True)
class Written:
    """The file of a slim model, and what its validation gave.

    Attributes:
        file: The checkpoint.
        bytes_before: Of the model that was given, as a checkpoint in fp16.
        ms: Medians of both models at one image; None if they were not timed.
        figure: What is measured: map, mask_map or top1; empty without a validation.
        dense: That of the model that was given.
        slim: That of the slim one; None without a validation.
    """

    file: Path
    bytes_before: int
    ms: Optional[tuple[float, float]] = None
    figure: str = ""
    dense: float = 0.0
    slim: Optional[float] = None


class Report:
    """Everything that is said about one slimming."""

    def __init__(self, folder: Path, facts: dict[str, Any], title: str, whole: bool = False) -> None:
        """Begin the report.

        Args:
            folder: For the files.
            facts: Plain values for report.json.
            title: Above the picture: the model, the data and the amount.
            whole: Show all layers.
        """
        self._console = plain_console()
        self._folder, self._title, self._whole = folder, title, whole
        self.content: dict[str, Any] = {**facts, "said": []}

    def say(self, line: str) -> None:
        """Print a line, and keep it."""
        self.content["said"].append(line)
        self._console.print(line, soft_wrap=True)

    def measured(self, which: str, figure: str, value: float) -> None:
        """Note and print what a validation gave.

        Args:
            which: ``given`` or ``slim``.
            figure: What was measured.
            value: Of it, in [0, 1].
        """
        self.content[which] = {figure: value}
        self._console.print(f"{which}: {label(figure)} {value:.4f}")

    def done(self, slimmed: SlimResult, written: Optional[Written] = None) -> None:
        """Print the tables and write the files.

        Args:
            slimmed: What was done.
            written: The file, if one was written.

        Raises:
            PruneError: If the report can't be written; the model is.
        """
        self._console.print(_widths(slimmed, self._whole))
        by_reason: dict[str, list[str]] = {}
        for name, reason in slimmed.kept.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            self.say(f"kept whole, as {reason}: {', '.join(names[:SHOWN])}{more}")
        for repaired in slimmed.repairs:
            tried = ", ".join(f"{name} {value:.3g}" for name, value in repaired.distances.items())
            self.say(f"repair kept: {repaired.kept} (distance to the outputs before, on held-out images: {tried})")
        self._console.print(_costs(slimmed, written))
        self.content.update(
            widths=slimmed.widths, kept=slimmed.kept, before=slimmed.before, after=slimmed.after,
            latency=slimmed.latency, repairs=[asdict(one) for one in slimmed.repairs])  # fmt: skip
        if written:
            self.content.update(file=str(written.file), bytes_before=written.bytes_before,
                                bytes=written.file.stat().st_size, ms=written.ms,
                                slim={written.figure: written.slim} if written.figure else {})  # fmt: skip
        self._write(slimmed)

    def end(self, steps: Mapping[str, str]) -> None:
        """Say where the report is, and what to do next."""
        self._console.print(f"report: {self._folder}", soft_wrap=True)
        say_next(self._console, steps)

    def _write(self, slimmed: SlimResult) -> None:
        frame = pd.DataFrame(
            [(name, *pair) for name, pair in slimmed.widths.items()], columns=["name", "before", "after"]
        )
        write_report(self._folder, {
            "report.json": json_of(self.content),
            "widths.csv": csv_of(frame),
            "widths.png": lambda file: _plot(frame, self._title, file),
        })  # fmt: skip


def _widths(slimmed: SlimResult, whole: bool) -> Table:
    """The layers that lose most channels, or all."""
    table = Table("channels")
    table.column("layer", "name")
    for column in ("before", "after", "left"):
        table.column(column)
    widths = list(slimmed.widths.items())
    most = sorted(range(len(widths)), key=lambda i: (widths[i][1][1] - widths[i][1][0], i))
    shown = set(most if whole or len(widths) <= LAYERS + 1 else most[:LAYERS])
    for index in sorted(shown):
        name, (before, after) = widths[index]
        table.row(name, str(before), str(after), f"{after / before:.2f}")
    if len(shown) < len(widths):
        rest = [widths[index][1] for index in most[LAYERS:]]
        before, after = (sum(pair[side] for pair in rest) for side in (0, 1))
        table.row(f"{len(rest)} more", str(before), str(after), f"{after / before:.2f}", style="dim")
    return table


def _costs(slimmed: SlimResult, written: Optional[Written]) -> Table:
    """Everything before and after, in one place."""
    table = Table()
    table.column("", "text")
    for column in ("before", "after", "ratio"):
        table.column(column)
    for name, label_, unit, scale in (("params", "parameters", "M", 1e6), ("flops", "FLOPs", "G", 1e9)):
        before, after = slimmed.before[name], slimmed.after[name]
        table.row(label_, f"{before / scale:.3f} {unit}", f"{after / scale:.3f} {unit}", f"{after / before:.3f}")
    if written:
        before, after = written.bytes_before, written.file.stat().st_size
        table.row("bytes (fp16)", f"{before:,}", f"{after:,}", f"{after / before:.3f}")
        if written.ms:
            low, high = written.ms
            table.row("ms an image", f"{low:.1f}", f"{high:.1f}", f"{high / low:.3f}")
    if written and written.slim is not None:
        share = f"{written.slim / written.dense:.3f}" if written.dense else "-"
        table.row(label(written.figure), f"{written.dense:.4f}", f"{written.slim:.4f}", share)
    return table


def _plot(frame: pd.DataFrame, title: str, file: Path) -> None:
    figure = canvas(max(8.0, 0.16 * len(frame)), 4.5)
    axes = figure.subplots()
    x = range(len(frame))
    axes.bar(x, frame["after"], color=KEPT, label="kept")
    axes.bar(x, frame["before"] - frame["after"], bottom=frame["after"], color=GONE, label="removed")
    axes.set_ylabel("channels")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xticks(list(x), frame["name"], rotation=90, fontsize=6)
    open_frame(axes)
    axes.margins(x=0.01)
    axes.legend(frameon=False)
    save_png(figure, file)
