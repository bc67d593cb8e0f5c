"""The layers of a pruned model: a table in the terminal, layers.csv and layers.png."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from yolov5_prune_plugin.core.pruning.parameters import any_of
from yolov5_prune_plugin.core.pruning.sparsity import Sparsity
from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png


def layers_frame(sparsity: Sparsity) -> pd.DataFrame:
    """Make one row per layer's weight: name, shape, weights, zeros, sparsity, zero_channels, skipped."""
    rows = [
        {"name": layer.name, "shape": "x".join(map(str, layer.shape)), "weights": layer.weights, "zeros": layer.zeros,
         "sparsity": layer.sparsity, "zero_channels": layer.channels, "skipped": layer.skipped}
        for layer in sparsity.layers
    ]  # fmt: skip
    return pd.DataFrame(rows)


def layers_table(sparsity: Sparsity, title: str) -> Table:
    """Make a table of the layers and both totals.

    Args:
        sparsity: The model's zeros.
        title: Above it.
    """
    # Text, as paths and globs may hold [brackets], which rich would take as markup
    title_text = Text(title, style="table.title")
    table = Table(title=title_text, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    for column in ("shape", "weights", "zeros", "sparsity"):
        table.add_column(column, justify="right")
    table.add_column("left alone because")
    for layer in sparsity.layers:
        shape = "x".join(map(str, layer.shape))
        numbers = (f"{layer.weights:,}", f"{layer.zeros:,}", f"{layer.sparsity:.3f}")
        table.add_row(Text(layer.name), shape, *numbers, Text(layer.skipped))
    table.add_section()
    treated = ("zeros / conv and linear weights", sum(layer.zeros for layer in sparsity.layers),
               sum(layer.weights for layer in sparsity.layers))  # fmt: skip
    for label, zeros, whole in (
        ("zeros / conv weights", sparsity.conv_zeros, sparsity.conv_weights),
        *([treated] if sparsity.linear else []),
        ("zeros / all parameters", sparsity.zeros, sparsity.parameters),
    ):
        table.add_row(label, "", f"{whole:,}", f"{zeros:,}", f"{zeros / max(1, whole):.3f}", "")
    for kind, count in sparsity.others.items():
        reason = f"not a {any_of(sparsity.linear)} weight"
        table.add_row(Text(kind), "", f"{count:,}", "", "", reason, style="dim")
    return table


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
