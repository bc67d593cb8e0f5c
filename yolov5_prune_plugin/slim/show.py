"""What a slimming says: tables in the terminal; report.json, widths.csv and widths.png beside the file it wrote."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yolov5_prune_plugin.core.slim import Slimmed
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.slim.flags import SlimOptions

SHOWN = 6  # names of layers in a line


class Report:
    """Everything that is said about one slimming."""

    def __init__(self, weights: Path, output: Path, what: str, config: SlimOptions) -> None:
        self._console = Console(width=120, highlight=False, markup=False, emoji=False)
        self._folder = output.with_name(f"{output.stem}_slim")
        self.content: dict[str, Any] = {"weights": str(weights), "what": what, "options": asdict(config), "said": []}

    def say(self, line: str) -> None:
        """Print a line, and keep it."""
        self.content["said"].append(line)
        self._console.print(line, soft_wrap=True)

    def measured(self, which: str, figure: str, value: float) -> None:
        """A validation."""
        self.content[which] = {figure: value}
        self._console.print(f"{which}: {figure} {value:.4f}")

    def done(
        self, slimmed: Slimmed, output: Path, figure: str, dense: float, value: Optional[float]
    ) -> None:  # fmt: skip
        """Print the tables and write the files.

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
        self._console.print(_costs(slimmed, output, figure, dense, value))
        self.content.update(
            widths=slimmed.widths, kept=slimmed.kept, before=slimmed.before, after=slimmed.after,
            latency=slimmed.latency, repairs=[asdict(one) for one in slimmed.repairs], file=str(output),
            slim={figure: value} if figure else {})  # fmt: skip
        self._write(slimmed)

    def _write(self, slimmed: Slimmed) -> None:
        frame = pd.DataFrame(
            [(name, *pair) for name, pair in slimmed.widths.items()], columns=["name", "before", "after"]
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with written_whole(self._folder / "report.json") as file:
                file.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
            with written_whole(self._folder / "widths.csv") as file:
                frame.to_csv(file, index=False)
            with written_whole(self._folder / "widths.png") as file:
                _plot(frame, file)
        except OSError as error:
            raise PruneError(f"the report cannot be written to {self._folder}: {error}") from error
        self._console.print(f"report: {self._folder}", soft_wrap=True)


def _widths(slimmed: Slimmed) -> Table:
    table = Table(title="channels", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    for column in ("before", "after", "left"):
        table.add_column(column, justify="right")
    for name, (before, after) in slimmed.widths.items():
        table.add_row(Text(name), str(before), str(after), f"{after / before:.2f}")
    return table


def _costs(slimmed: Slimmed, output: Path, figure: str, dense: float, value: Optional[float]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "dense", "slim", "left"):
        table.add_column(column, justify="left" if not column else "right")
    for name, unit, scale in (("params", "M", 1e6), ("flops", "G", 1e9)):
        before, after = slimmed.before[name], slimmed.after[name]
        table.add_row(name, f"{before / scale:.3f} {unit}", f"{after / scale:.3f} {unit}", f"{after / before:.3f}")
    if slimmed.latency is not None:
        table.add_row("latency, as measured", "", "", f"{slimmed.latency:.3f}")
    table.add_row("bytes of the file", "", f"{output.stat().st_size:,}", "")
    if value is not None:
        share = f"{value / dense:.3f}" if dense else "-"
        table.add_row(figure, f"{dense:.4f}", f"{value:.4f}", share)
    return table


def _plot(frame: pd.DataFrame, file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(8.0, 0.16 * len(frame)), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x = range(len(frame))
    axes.bar(x, frame["after"], color="#2a6f97", label="kept")
    axes.bar(x, frame["before"] - frame["after"], bottom=frame["after"], color="#e76f51", label="removed")
    axes.set_ylabel("channels")
    axes.set_xticks(list(x), frame["name"], rotation=90, fontsize=6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)
