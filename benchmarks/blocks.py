"""Blocks and amounts for speed in one shot, beside the dense model on smaller images, through the real val.py.

    python -m benchmarks.blocks [--set bccd|coco] [--release master|v7.0|7.0.14] [--shared DIR] [--only NAME ...]
                                [--cut] [--results FILE] [--png FILE]

``coco``: yolov5n, official weights, first 128 images of COCO val2017 at 640, calibrated on coco128 (train2017).
``bccd``: yolov5n fine-tuned on the train split of BCCD, its val split at 320. No labels are used for calibration, and
no image of the validation split. With ``--cut`` every fifth training image is validated on instead, and not calibrated
on: choices are made there. Each line is kept in ``--results`` as it is measured, and passed over the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import prepare
from benchmarks.detect import cut_off
from benchmarks.oneshot import data_of, run
from benchmarks.table import print_table
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.reporting.figure import canvas, open_frame, save_png

SIZES = {"bccd": ("320", "256", "224", "192"), "coco": ("640", "512", "448", "384")}
OBS = ("--prune-method", "obs")
BLOCKS = ("--prune-granularity", "4x1")
UNIFORM = ("--prune-distribution", "uniform")
NAMES = ("weights", "4x1 blocks")


def runs_of(name: str) -> dict[str, tuple[str, ...]]:
    """Our flags and the image size by line of the table; dense on smaller images first."""
    whole = SIZES[name][0]
    runs = {f"dense at {size}": ("--prune", "0", "--imgsz", size) for size in SIZES[name]}
    for kind, grain in zip(NAMES, ((), BLOCKS)):
        for gone in (0.3, 0.4, 0.5, 0.6, 0.7):
            target = ("--prune-target", f"flops={1 - gone:g}")
            runs[f"{kind}, {gone:.0%} of the multiplications"] = (*OBS, *grain, *target, "--imgsz", whole)
            equal = ("--prune", str(gone), *UNIFORM)
            runs[f"{kind}, {gone:.0%} of each layer"] = (*OBS, *grain, *equal, "--imgsz", whole)
        for gone in (0.5, 0.7):
            runs[f"{kind}, {gone:.0%} of the weights, loss"] = (*OBS, *grain, "--prune", str(gone), "--imgsz", whole)
    return runs


def main() -> None:
    """Run them in turn and print one table."""
    mirror = os.environ.get("YOLOV5_MIRROR")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared")))
    parser.add_argument("--release", default="master" if mirror else "7.0.14")
    parser.add_argument("--checkout", type=Path, help="a YOLOv5 checkout to run instead of a release")
    parser.add_argument("--set", choices=tuple(SIZES), default="bccd")
    parser.add_argument("--only", nargs="+", help="lines of the table")
    parser.add_argument("--cut", action="store_true", help="validate on a part of the training images, to choose by")
    parser.add_argument("--results", type=Path, help="JSON that lines are kept in (default runs/blocks-SET.json)")
    parser.add_argument("--png", type=Path, help="a picture of accuracy against multiplications")
    options, more = parser.parse_known_args()
    if not (options.shared / "weights" / "yolov5n.pt").is_file():
        print(f"blocks: no official weights at {options.shared}; give --shared DIR with weights/ and data/")
        return
    file = options.results or Path("runs") / f"blocks-{options.set}{'-cut' if options.cut else ''}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights, data, _ = data_of(options.set, options.shared.resolve(), folder)
        data = cut_off(data) if options.cut else data
        target, path = prepare(options.release, folder, mirror) if not options.checkout else (
            str(options.checkout / "val.py"), os.getcwd())  # fmt: skip
        command = [sys.executable, "-m", "yolov5_prune_plugin", "run", target, "--weights", weights, "--data", data,
                   "--batch-size", "8", "--device", "cpu", "--project", folder, "--name", "val", "--exist-ok",
                   *more]  # fmt: skip
        for name, flags in runs_of(options.set).items():
            if name in found or (options.only and name not in options.only):
                continue
            (folder / "val" / "prune" / "report.json").unlink(missing_ok=True)
            run([*command, *flags], path)
            report = json.loads((folder / "val" / "prune" / "report.json").read_text())
            found[name] = {key: report.get(key) for key in (
                "map", "map50", "conv_sparsity", "multiplication_sparsity", "multiplications", "zero_multiplications",
                "zeros_in_4x1", "pruned_weights", "imgsz")}  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(file) as place:
                place.write_text(json.dumps(found, indent=1) + "\n")
            print("|", name, f"{report['map']:.4f}", flush=True)  # progress
    rows = table_rows(options.set, found)
    held = ", training images held out" if options.cut else ""
    print_table(f"{options.set}: {weights.name}, {options.checkout or options.release}{held}",
                ("", "zeros / weights", "zeros / multiplications", "M multiplications left", "mAP50", "mAP50-95",
                 "dense, as few by smaller images"), rows)  # fmt: skip
    if options.png:
        draw(options.set, found, options.png)


def left(one: dict[str, Any]) -> float:
    """Millions of multiplications by weights that are not zero."""
    return (one["multiplications"] - one["zero_multiplications"]) / 1e6


def control(name: str, found: dict[str, Any], multiplications: float) -> str:
    """mAP of the dense model on images so small that as much is left: between two measured sizes on a straight line."""
    line = sorted((left(found[f"dense at {size}"]), found[f"dense at {size}"]["map"]) for size in SIZES[name]
                  if f"dense at {size}" in found)  # fmt: skip
    for (low, below), (high, above) in zip(line, line[1:]):
        if low <= multiplications <= high:
            return f"{below + (above - below) * (multiplications - low) / (high - low):.3f}"
    return "-"


def table_rows(name: str, found: dict[str, Any]) -> Sequence[Sequence[str]]:
    """One a line that was measured, in the order of the plan."""
    return [
        (line, f"{found[line]['conv_sparsity']:.3f}", f"{found[line]['multiplication_sparsity']:.3f}",
         f"{left(found[line]):.0f}", f"{found[line]['map50']:.3f}", f"{found[line]['map']:.3f}",
         "" if line.startswith("dense") else control(name, found, left(found[line])))
        for line in runs_of(name) if line in found
    ]  # fmt: skip


def draw(name: str, found: dict[str, Any], file: Path) -> None:
    """Lines by kind, against multiplications that are left; dense on smaller images dashed."""
    figure = canvas(8, 5)
    axes = figure.subplots()
    kinds = {"dense, smaller images": lambda line: line.startswith("dense")}
    for kind in NAMES:
        for ending, label in (("multiplications", "amounts for speed"), ("each layer", "equal shares")):
            kinds[f"{kind}, {label}"] = lambda line, kind=kind, ending=ending: (
                (line.startswith(f"{kind},") and line.endswith(ending)) or line == f"dense at {SIZES[name][0]}"
            )
    for index, (label, belongs) in enumerate(kinds.items()):
        points = sorted((left(one), one["map"]) for line, one in found.items() if belongs(line))
        if len(points) > 1:
            axes.plot(*zip(*points), marker="o", markersize=4, label=label, color="black" if not index else f"C{index}",
                      linestyle="-" if index else "--")  # fmt: skip
    axes.set_xlabel("million multiplications by weights that are not zero, one image")
    axes.set_ylabel("mAP50-95")
    axes.set_title(f"{name}, yolov5n, no training", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    open_frame(axes)
    save_png(figure, file)


if __name__ == "__main__":
    main()
