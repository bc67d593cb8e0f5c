"""The layers of a pruned model: a table in the terminal, layers.csv and layers.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import pandas as pd

from yolov5_prune_plugin.core.pruning.parameters import any_of
from yolov5_prune_plugin.core.pruning.sparsity import Layer, Sparsity
from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png
from yolov5_prune_plugin.reporting.tables import Table

SHOWN = 10  # layers in a table
SPARSE = 0.001  # a model with fewer zeros was dense: rounding to fp16 makes some


def layers_frame(sparsity: Sparsity) -> pd.DataFrame:
    """Make one row per layer's weight: its zeros, in multiplications too, and how many of them stand in blocks."""
    rows = [
        {"name": layer.name, "shape": "x".join(map(str, layer.shape)), "weights": layer.weights, "zeros": layer.zeros,
         "sparsity": layer.sparsity, "zeros_before": layer.before, "multiplications": layer.multiplications,
         "zero_multiplications": layer.zero_multiplications, "zero_channels": layer.channels,
         **{f"zeros_in_{rows}x1": blocks.zeros for rows, blocks in layer.blocks.items()}, "skipped": layer.skipped}
        for layer in sparsity.layers
    ]  # fmt: skip
    return pd.DataFrame(rows)


def layers_table(sparsity: Sparsity, title: str, whole: bool = False) -> Table:
    """Make a table of the layers that matter - those with most zeros - and the totals.

    Multiplications are those by weights for one image, in millions; "in 4x1" is the share of the zeros that stand in
    blocks of four output channels.

    Args:
        sparsity: The model's zeros.
        title: Above it.
        whole: All layers.
    """
    table = Table(title)
    table.column("layer", "name")
    table.column("shape", spare=1)
    table.column("weights")
    table.column("zeros")
    if sparse := sparsity.conv_before >= SPARSE * sparsity.conv_weights > 0:
        table.column("there before")
    table.column("sparsity")
    counted, block = sparsity.multiplications > 0, _largest_block(sparsity)
    if counted:
        table.column("mult. M", spare=3)
        table.column("zero M", spare=4)
    if _block_sizes(sparsity):
        table.column(f"in {block}x1", spare=5)
    if any(layer.skipped for layer in sparsity.layers) or sparsity.others:
        table.column("left alone because", "text", spare=2)

    def row(name: str, shape: str, layers: Sequence[Layer], why: str, style: Optional[str] = None) -> None:
        weights, zeros, before = (sum(getattr(layer, what) for layer in layers)
                                  for what in ("weights", "zeros", "before"))  # fmt: skip
        numbers = [f"{weights:,}", f"{zeros:,}", *([f"{before:,}"] if sparse else []), f"{zeros / max(1, weights):.3f}"]
        if counted:
            numbers += [f"{sum(getattr(layer, what) for layer in layers) / 1e6:,.1f}"
                        for what in ("multiplications", "zero_multiplications")]  # fmt: skip
        if _block_sizes(sparsity):
            inside = sum(layer.blocks[block].zeros for layer in layers if block in layer.blocks)
            numbers.append(f"{inside / zeros:.2f}" if zeros else "")
        table.row(name, shape, *numbers, why, style=style)

    shown = set(sorted(range(len(sparsity.layers)), key=lambda i: (-sparsity.layers[i].zeros, i))[:SHOWN])
    if whole or len(sparsity.layers) <= SHOWN + 1:
        shown = set(range(len(sparsity.layers)))
    for index in sorted(shown):
        layer = sparsity.layers[index]
        row(layer.name, "x".join(map(str, layer.shape)), [layer], layer.skipped)
    rest: dict[str, list[Layer]] = {}
    for index, layer in enumerate(sparsity.layers):
        if index not in shown:
            rest.setdefault(layer.skipped, []).append(layer)
    for reason, layers in rest.items():
        row(f"{len(layers)} more", "", layers, reason, "dim")
    table.section()
    convs = [layer for layer in sparsity.layers if layer.conv]
    row("zeros / conv weights", "", convs, "")
    if sparsity.linear:
        row("zeros / conv and linear weights", "", sparsity.layers, "")
    before = [""] if sparse else []
    share = f"{sparsity.zeros / max(1, sparsity.parameters):.3f}"
    table.row("zeros / all parameters", "", f"{sparsity.parameters:,}", f"{sparsity.zeros:,}", *before, share)
    if counted:
        millions = [f"{count / 1e6:,.1f}" for count in (sparsity.multiplications, sparsity.zero_multiplications)]
        table.row("zeros / multiplications", "", "", "", *before, f"{sparsity.multiplication_sparsity:.3f}", *millions)
    for count in _block_sizes(sparsity):
        zeros = sum(layer.zeros for layer in sparsity.layers)
        inside = sum(layer.blocks[count].zeros for layer in sparsity.layers if count in layer.blocks)
        share = f"{sparsity.zeros_in_blocks(count):.3f}"
        table.row(f"zeros in blocks of {count}x1 / zeros", "", f"{zeros:,}", f"{inside:,}", *before, share)
    for kind, count in sparsity.others.items():
        table.row(kind, "", f"{count:,}", "", *before, "", *([""] * (2 * counted + bool(_block_sizes(sparsity)))),
                  f"not a {any_of(sparsity.linear)} weight", style="dim")  # fmt: skip
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
