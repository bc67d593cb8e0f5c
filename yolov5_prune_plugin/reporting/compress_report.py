"""Where the bytes of a .y5z file go: the table of its layers, ratios, a picture and a page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Console

from yolov5_prune_plugin.core.coding.sizes import Sizes
from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png
from yolov5_prune_plugin.reporting.html_page import html_page, svg
from yolov5_prune_plugin.reporting.labels import label
from yolov5_prune_plugin.reporting.run_folder import Writer, text_of
from yolov5_prune_plugin.reporting.tables import Table

COLUMNS = ("weights", "kept", "clusters", "codebook", "indices", "positions", "bytes", "bits/weight")
_PARTS = (("positions", KEPT), ("values", "#e9c46a"), ("codebook", GONE))


def rows(found: Sizes) -> list[tuple[str, ...]]:
    """Make one row per layer: name, shape, and ``COLUMNS``."""
    return [
        (layer.name, "x".join(map(str, layer.shape)), f"{layer.weights:,}", f"{layer.kept / max(1, layer.weights):.3f}",
         str(layer.clusters or "own"), f"{layer.codebook:,}", f"{layer.values:,}", f"{layer.positions:,}",
         f"{layer.size:,}", f"{layer.bits_per_weight:.3f}")
        for layer in found.layers
    ]  # fmt: skip


def totals(found: Sizes) -> list[tuple[str, ...]]:
    """Make the rows below: all weights, other tensors, the header, the file."""
    parts = [
        sum(getattr(layer, name) for layer in found.layers) for name in ("codebook", "values", "positions", "size")
    ]
    weights = f"{found.weights:,}", f"{found.kept / max(1, found.weights):.3f}"
    bits = 8 * parts[3] / max(1, found.weights)
    return [
        ("all weights", "", *weights, "", *(f"{part:,}" for part in parts), f"{bits:.3f}"),
        ("BatchNorm, biases, anchors", "", f"{found.other_entries:,}", *[""] * 5, f"{found.others:,}", ""),
        ("header, with the architecture", *[""] * 7, f"{found.header:,}", ""),
        ("file", *[""] * 7, f"{found.total:,}", ""),
    ]


def ratios(found: Sizes, content: Mapping[str, Any]) -> list[str]:
    """Say how much smaller the file is than others of the same model.

    Args:
        found: Where the bytes go.
        content: Of the .y5z file's header.

    Returns:
        Lines of text.
    """
    lines = [f"{found.total:,} bytes, {found.fp32 / found.total:.1f}x smaller than its numbers in fp32"
             f" ({found.fp32:,} bytes)"]  # fmt: skip
    source = content.get("source")
    for key, what in (("fp16_bytes", "the checkpoint in fp16"), ("zip_bytes", "that checkpoint zipped")):
        size = source.get(key) if isinstance(source, Mapping) else None
        if isinstance(size, int):
            lines.append(f"{size / found.total:.1f}x smaller than {what} ({size:,} bytes)")
    return lines


def bits_of(found: Sizes) -> float:
    """Bits of the whole file for each weight."""
    return 8 * found.total / max(1, found.weights)


def frame(found: Sizes) -> pd.DataFrame:
    """Make one row per layer, with plain numbers."""
    return pd.DataFrame([{
        "name": layer.name, "shape": "x".join(map(str, layer.shape)), "weights": layer.weights, "kept": layer.kept,
        "clusters": layer.clusters, "codebook": layer.codebook, "indices": layer.values, "positions": layer.positions,
        "bytes": layer.size, "bits_per_weight": layer.bits_per_weight,
    } for layer in found.layers])  # fmt: skip


def content(found: Sizes, header: Mapping[str, Any]) -> dict[str, Any]:
    """Give plain values for a report.

    Args:
        found: Where the bytes go.
        header: The content of the .y5z file's header.
    """
    return {
        "bytes": found.total, "fp32_bytes": found.fp32, "source": header.get("source"), "weights_in": found.weights,
        "kept": found.kept, "bits_per_weight": bits_of(found), "header": found.header, "others": found.others,
        "sharing": header.get("sharing"), "layers": frame(found).to_dict("records"),
    }  # fmt: skip


def say_ratios(
    console: Console, found: Sizes, content: Mapping[str, Any], otherwise: str = "; measure it with val.py"
) -> None:
    """Print the ratios, and what sharing changed.

    Args:
        console: Where to.
        found: Where the bytes go.
        content: Of the .y5z file's header.
        otherwise: What to say where the file does not tell what was measured.
    """
    for line in ratios(found, content):
        console.print(line, soft_wrap=True)
    sharing = content.get("sharing")
    if isinstance(sharing, Mapping) and isinstance(sharing.get("error"), float):
        floor = sharing.get("floor")
        what = ", ".join(
            f"{label(name)} was measured, no less than {value:.4f}" for name, value in (floor or {}).items()
        )
        if not sharing["error"]:
            console.print("weights shared: they had no more values already, nothing was lost")
            return
        said = f"; {what}" if what else otherwise
        console.print(f"weights shared: squared error {sharing['error']:.2e} of their squares{said}")


def table(found: Sizes, title: str) -> Table:
    """Make the table of a file's layers for the terminal.

    Args:
        found: Where the bytes go.
        title: Above it.
    """
    made = Table(title)
    made.column("layer", "name")
    spare = {"shape": 1, "codebook": 2, "clusters": 3, "positions": 4, "indices": 5}
    for column in ("shape", *COLUMNS):
        made.column(column, spare=spare.get(column, 0))
    for row in rows(found):
        made.row(*row)
    made.section()
    for row in totals(found):
        made.row(*row)
    return made


def draw(found: Sizes, title: str) -> Any:
    """Draw bars of each layer's bytes, by what they are for, and its bits per weight.

    Args:
        found: Where the bytes go.
        title: Above the plot.

    Returns:
        A matplotlib figure.
    """
    figure = canvas(max(8.0, 0.17 * (len(found.layers) + 2)), 6.5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    names = [layer.name.removesuffix(".weight") for layer in found.layers]
    base = [0.0] * len(names)
    for part, colour in _PARTS:
        heights = [getattr(layer, part) / 1000 for layer in found.layers]
        label = "indices" if part == "values" and any(layer.clusters for layer in found.layers) else part
        top.bar(range(len(names)), heights, bottom=base, color=colour, label=label)
        base = [low + height for low, height in zip(base, heights)]
    rest = [found.others / 1000, found.header / 1000]
    top.bar([len(names), len(names) + 1], rest, color="#888", label="BatchNorm and biases; header")
    top.set_ylabel("kB")
    top.set_title(f"{title}: {found.total:,} bytes", loc="left", fontsize=10)
    top.legend(frameon=False)
    bottom.bar(range(len(names)), [layer.bits_per_weight for layer in found.layers], color=KEPT)
    bottom.set_ylabel("bits per weight")
    bottom.set_xticks(range(len(names) + 2), [*names, "BatchNorm, biases", "header"], rotation=90, fontsize=6)
    open_frame(top, bottom)
    for axes in (top, bottom):
        axes.margins(x=0.01)
    return figure


def png_of(found: Sizes, title: str) -> Writer:
    """Make what writes the picture of ``draw``.

    Args:
        found: Where the bytes go.
        title: Above it.
    """
    return lambda file: save_png(draw(found, title), file)


def html_of(found: Sizes, content: Mapping[str, Any], title: str) -> Writer:
    """Make what writes one page that needs nothing else: ratios, picture and table.

    Args:
        found: Where the bytes go.
        content: Of the .y5z file's header.
        title: Heading.
    """
    frame = pd.DataFrame([*rows(found), *totals(found)], columns=["layer", "shape", *COLUMNS])
    page = html_page(title, *(f"<p>{html.escape(line)}</p>" for line in ratios(found, content)),
                     svg(draw(found, title)), frame.to_html(index=False, escape=True, border=0))  # fmt: skip
    return text_of(page)
