"""What the sparse runtime does with each layer: a table, runtime.json and runtime.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from rich import box
from rich.table import Table
from rich.text import Text

from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png
from yolov5_prune_plugin.reporting.run_folder import json_of, write_report


def report(content: dict[str, Any], folder: Optional[Path]) -> None:
    """Print the table, and write the files if there is a folder.

    Args:
        content: What runtime.json holds.
        folder: Of the run.

    Raises:
        PruneError: If they can't be written.
    """
    console = plain_console()
    console.print(runtime_table(content))
    console.print(summary(content), soft_wrap=True)
    if folder is not None:
        write_report(
            folder, {"runtime.json": json_of(content), "runtime.png": lambda file: plot_runtime(content, file)}
        )
        console.print(f"report: {folder}", soft_wrap=True)


def summary(content: dict[str, Any]) -> str:
    """One line on the whole model, from what runtime.json holds."""
    shape = "x".join(map(str, content["shape"]))
    text = (f"sparse runtime ({content['kernels']}, threads: {content['threads']}): {content['ms']:.1f} ms for {shape},"
            f" PyTorch {content['pytorch_ms']:.1f} ms in turns with it: {content['faster']:.2f} times as fast"
            f" ({content['faster_low']:.2f}-{content['faster_high']:.2f})")  # fmt: skip
    if content["left_to_pytorch"]:
        text += f"; left to PyTorch: {', '.join(sorted(set(content['left_to_pytorch'])))}"
    return text


def runtime_table(content: dict[str, Any]) -> Table:
    """Make a table of the layers, from what runtime.json holds."""
    table = Table(title="ms of each convolution, with its activation, in PyTorch and here", title_justify="left",
                  box=box.SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    table.add_column("layer")
    table.add_column("kernel")
    for column in ("shape", "zeros", "PyTorch ms", "ms", "share"):
        table.add_column(column, justify="right")
    for row in content["layers"]:
        numbers = (f"{row['zeros']:.3f}", f"{row['before']:.3f}", f"{row['ms']:.3f}", f"{row['share']:.3f}")
        shape = "x".join(map(str, row["shape"]))
        table.add_row(Text(row["name"].removesuffix(".weight")), row["kernel"], shape, *numbers)
    return table


def plot_runtime(content: dict[str, Any], file: Path) -> None:
    """Draw bars of each layer's time in PyTorch and here, and its zeros.

    Args:
        content: What runtime.json holds.
        file: The PNG.
    """
    rows = content["layers"]
    figure = canvas(max(8.0, 0.18 * len(rows)), 6.5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    x = range(len(rows))
    top.bar([i - 0.2 for i in x], [row["before"] for row in rows], 0.4, color=GONE, label="PyTorch")
    top.bar([i + 0.2 for i in x], [row["ms"] for row in rows], 0.4, color=KEPT, label="sparse runtime")
    top.set_ylabel("ms")
    top.set_title(summary(content), loc="left", fontsize=9)
    top.legend(frameon=False)
    bottom.bar(x, [row["zeros"] for row in rows], color=GONE)
    bottom.set_ylim(0, 1)
    bottom.set_ylabel("zeros")
    bottom.set_xticks(list(x), [row["name"].removesuffix(".weight") for row in rows], rotation=90, fontsize=6)
    open_frame(top, bottom)
    for axes in (top, bottom):
        axes.margins(x=0.01)
    save_png(figure, file)
