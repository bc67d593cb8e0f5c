"""What a person looks at after a bench: tables of cost and latency, bench.json and bench.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolov5_prune_plugin.reporting.figure import GONE, KEPT, canvas, open_frame, save_png
from yolov5_prune_plugin.reporting.labels import label
from yolov5_prune_plugin.reporting.run_folder import json_of, write_report
from yolov5_prune_plugin.reporting.tables import Table


def costs_table(content: dict[str, Any]) -> Table:
    """Make a table of what each model costs and finds, from what bench.json holds."""
    table = Table()
    table.column("model", "name")
    for column in ("parameters", "GFLOPs", "bytes of the file"):
        table.column(column)
    figure = next((one["figure"] for one in content["models"].values() if "figure" in one), "")
    if figure:
        table.column(label(figure))
    for name, one in content["models"].items():
        found = [f"{one['value']:.4f}"] if figure else []
        table.row(name, f"{one['params']:,.0f}", f"{one['flops'] / 1e9:.3f}", f"{one['bytes']:,}", *found)
    return table


def latency_table(content: dict[str, Any], names: dict[str, str]) -> Table:
    """Make a table of latency, ratios to the first model, peak memory and differences.

    Args:
        content: What bench.json holds.
        names: Of the runtimes, as people write them.
    """
    title = (
        f"imgsz {content['imgsz']}, {content['threads']} threads; faster: times the first model's, median and quartiles"
    )
    table = Table(title)
    spare = {"difference": 1, "peak MB": 2, "spread": 3}
    for column in ("runtime", "batch", "model", "ms", "faster", "spread", "peak MB", "difference"):
        table.column(column, {"runtime": "text", "model": "name"}.get(column, "number"), spare.get(column, 0))
    for row in content["latency"]:
        table.row(names[row["runtime"]], str(row["batch"]), row["model"], f"{row['ms']:.1f}",
                      f"{row['speedup']:.2f}", f"{row['speedup_low']:.2f}-{row['speedup_high']:.2f}",
                      f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else "",
                      f"{row['difference']:.1e}" if "difference" in row else "")  # fmt: skip
    return table


def write_bench(content: dict[str, Any], folder: Path, names: dict[str, str]) -> None:
    """Write bench.json and bench.png.

    Args:
        content: What bench.json holds.
        folder: Of the run.
        names: Of the runtimes, as people write them.

    Raises:
        PruneError: If they can't be written.
    """
    write_report(folder, {
        "bench.json": json_of(content),
        "bench.png": lambda file: _plot(content, names, file),
    }, f"--project {folder}: the report")  # fmt: skip


def _plot(content: dict[str, Any], names: dict[str, str], file: Path) -> None:
    figure = canvas(8.0, 1.2 + 0.3 * len(content["latency"]))
    axes = figure.subplots()
    rows = content["latency"]
    values = [row["speedup"] for row in rows]
    spread = [[max(0.0, row["speedup"] - row["speedup_low"]) for row in rows],
              [max(0.0, row["speedup_high"] - row["speedup"]) for row in rows]]  # fmt: skip
    axes.barh(range(len(rows)), values, xerr=spread, color=KEPT, ecolor=GONE)
    axes.set_yticks(
        range(len(rows)), [f"{names[r['runtime']]}, batch {r['batch']}: {r['model']}" for r in rows], fontsize=7
    )
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    names_of = ", ".join(content["models"])
    axes.set_title(f"{names_of}: imgsz {content['imgsz']}, {content['threads']} threads", loc="left", fontsize=9)
    axes.set_xlabel("times faster than the first model")
    open_frame(axes)
    save_png(figure, file)
