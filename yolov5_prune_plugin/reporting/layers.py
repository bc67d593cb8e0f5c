"""The layers of a pruned model: a table in the terminal, layers.csv and layers.png."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from yolov5_prune_plugin.core.pruning.parameters import any_of
from yolov5_prune_plugin.core.pruning.sparsity import Sparsity
from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png


def layers_frame(sparsity: Sparsity) -> pd.DataFrame:
    """Make one row per layer's weight: its zeros, in multiplications too, and how many of them stand in blocks."""
    rows = [
        {"name": layer.name, "shape": "x".join(map(str, layer.shape)), "weights": layer.weights, "zeros": layer.zeros,
         "sparsity": layer.sparsity, "multiplications": layer.multiplications,
         "zero_multiplications": layer.zero_multiplications, "zero_channels": layer.channels,
         **{f"zeros_in_{rows}x1": blocks.zeros for rows, blocks in layer.blocks.items()}, "skipped": layer.skipped}
        for layer in sparsity.layers
    ]  # fmt: skip
    return pd.DataFrame(rows)


def layers_table(sparsity: Sparsity, title: str) -> Table:
    """Make a table of the layers and the totals.

    Multiplications are those by weights for one image, in millions; "in 4x1" is the share of the zeros that stand in
    blocks of four output channels.

    Args:
        sparsity: The model's zeros.
        title: Above it.
    """
    # Text, as paths and globs may hold [brackets], which rich would take as markup
    title_text = Text(title, style="table.title")
    table = Table(title=title_text, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    counted, block = sparsity.multiplications > 0, _largest_block(sparsity)
    for column in (
        "shape",
        "weights",
        "zeros",
        "sparsity",
        *(["mult. M", "zero M"] if counted else []),
        f"in {block}x1",
    ):
        table.add_column(column, justify="right")
    table.add_column("left alone because")
    for layer in sparsity.layers:
        shape = "x".join(map(str, layer.shape))
        numbers = [f"{layer.weights:,}", f"{layer.zeros:,}", f"{layer.sparsity:.3f}"]
        if counted:
            numbers += [f"{layer.multiplications / 1e6:.1f}", f"{layer.zero_multiplications / 1e6:.1f}"]
        inside = layer.blocks[block].zeros if block in layer.blocks else 0
        numbers.append(f"{inside / layer.zeros:.2f}" if layer.zeros else "")
        table.add_row(Text(layer.name), shape, *numbers, Text(layer.skipped))
    table.add_section()
    treated = ("zeros / conv and linear weights", sum(layer.zeros for layer in sparsity.layers),
               sum(layer.weights for layer in sparsity.layers))  # fmt: skip
    for label, zeros, whole in (
        ("zeros / conv weights", sparsity.conv_zeros, sparsity.conv_weights),
        *([treated] if sparsity.linear else []),
        ("zeros / all parameters", sparsity.zeros, sparsity.parameters),
    ):
        table.add_row(label, "", f"{whole:,}", f"{zeros:,}", f"{zeros / max(1, whole):.3f}")
    if counted:
        millions = [f"{count / 1e6:,.1f}" for count in (sparsity.multiplications, sparsity.zero_multiplications)]
        table.add_row("zeros / multiplications", "", "", "", f"{sparsity.multiplication_sparsity:.3f}", *millions)
    for rows in _block_sizes(sparsity):
        zeros = sum(layer.zeros for layer in sparsity.layers)
        inside = sum(layer.blocks[rows].zeros for layer in sparsity.layers if rows in layer.blocks)
        label = f"zeros in blocks of {rows}x1 / zeros"
        table.add_row(label, "", f"{zeros:,}", f"{inside:,}", f"{sparsity.zeros_in_blocks(rows):.3f}")
    for kind, count in sparsity.others.items():
        reason = f"not a {any_of(sparsity.linear)} weight"
        table.add_row(Text(kind), "", f"{count:,}", "", "", *([""] * (3 if counted else 1)), reason, style="dim")
    return table


def totals_of(sparsity: Sparsity) -> dict[str, float]:
    """Give the totals that reports keep: zeros by weights and by multiplications, and the share of zeros in blocks."""
    totals: dict[str, float] = {
        "conv_sparsity": sparsity.conv_sparsity, "total_sparsity": sparsity.total_sparsity,
        "conv_zeros": sparsity.conv_zeros, "conv_weights": sparsity.conv_weights, "zeros": sparsity.zeros,
        "parameters": sparsity.parameters,
    }  # fmt: skip
    if sparsity.multiplications:
        totals |= {"multiplication_sparsity": sparsity.multiplication_sparsity,
                   "multiplications": sparsity.multiplications,
                   "zero_multiplications": sparsity.zero_multiplications}  # fmt: skip
    return totals | {f"zeros_in_{rows}x1": sparsity.zeros_in_blocks(rows) for rows in _block_sizes(sparsity)}


def zeros_line(sparsity: Sparsity, size: Optional[tuple[int, int]]) -> str:
    """Say in a line how many zeros there are, by weights and by multiplications, and how many stand in blocks.

    Args:
        sparsity: The model's zeros.
        size: Height and width that multiplications were counted at; None if they were not.
    """
    inside = ", ".join(f"{sparsity.zeros_in_blocks(rows):.1%} in blocks of {rows}x1" for rows in _block_sizes(sparsity))
    line = f"zeros: {sparsity.conv_sparsity:.1%} of {sparsity.conv_weights:,} conv weights"
    if sparsity.multiplications and size:
        line += (f", {sparsity.multiplication_sparsity:.1%} of {sparsity.multiplications / 1e6:,.0f} M multiplications"
                 f" at {size[0]}x{size[1]}")  # fmt: skip
    return f"{line}; of these zeros {inside}" if any(layer.zeros for layer in sparsity.layers) else line


def _block_sizes(sparsity: Sparsity) -> list[int]:
    return sorted({rows for layer in sparsity.layers for rows in layer.blocks})


def _largest_block(sparsity: Sparsity) -> int:
    return max(_block_sizes(sparsity), default=4)


def plot_layers(sparsity: Sparsity, title: str, file: Path) -> None:
    """Draw bars of weights kept and dropped per layer, and the sparsity of each.

    Args:
        sparsity: The model's zeros.
        title: Above the plot.
        file: The PNG.
    """
    frame = layers_frame(sparsity)
    figure = canvas(max(8.0, 0.16 * len(frame)), 6.5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    x = range(len(frame))
    top.bar(x, frame["weights"] - frame["zeros"], color=KEPT, label="kept")
    top.bar(x, frame["zeros"], bottom=frame["weights"] - frame["zeros"], color=GONE, label="zero")
    top.set_ylabel("weights")
    top.set_title(title, loc="left", fontsize=10)
    top.legend(frameon=False)
    bottom.bar(x, frame["sparsity"], color=GONE)
    bottom.axhline(sparsity.conv_sparsity, color="black", linewidth=0.8, linestyle="--")
    bottom.set_ylim(0, 1)
    bottom.set_ylabel("sparsity (-- all convs)")
    bottom.set_xticks(list(x), [name.removesuffix(".weight") for name in frame["name"]], rotation=90, fontsize=6)
    open_frame(top, bottom)
    for axes in (top, bottom):
        axes.margins(x=0.01)
    save_png(figure, file)
