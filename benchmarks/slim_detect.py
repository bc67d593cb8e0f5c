"""Channels removed and what fine-tuning brings back: yolov5n by the real train.py, beside the dense control.

    python -m benchmarks.slim_detect --set bccd --way distill --target flops=0.5 --seed 0    one run
    python -m benchmarks.slim_detect --set bccd --all                                        all of the table, in turn
    python -m benchmarks.slim_detect --set bccd --all --dry-run                              what that would run
    python -m benchmarks.slim_detect --set bccd --table                                      what there is, as a table
    python -m benchmarks.slim_detect --cut --way slim --tag taylor -- --slim-importance taylor    try a choice

The sets are those of benchmarks/detect.py. ``slim`` trains what --slim leaves of the weights, ``distill`` with
--distill too; the dense control, the same weights for the same epochs without our flags, is that of
benchmarks/dns_detect.py. Each run has a folder in --out; last.pt, not best.pt, is measured by val.py in small batches,
and a JSON file goes to --results. A run whose file is there is passed over; one that was interrupted goes on from its
last.pt with --resume, which its record says. last.pt stays in train/weights of the folder: yolov5-prune bench compares
those of two runs.

Flags after -- go to train.py. With --cut every fifth training image is validated on instead: choices are made there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.detect import SETS, add_arguments, device_name, launch, lay_out, measure, parse
from benchmarks.table import print_table
from yolov5_prune_plugin.files import written_whole

WAYS: dict[str, tuple[str, ...]] = {"slim": ("--slim",), "distill": ("--distill", "--slim")}
TARGETS = ("flops=0.7", "flops=0.5", "flops=0.35")


def name_of(options: argparse.Namespace) -> str:
    """The folder of a run."""
    how = f"{options.way}-{options.target}-round{options.round}"
    data = f"{options.set}-cut" if options.cut else options.set
    return "-".join(filter(None, [data, how, f"e{options.epochs}", f"seed{options.seed}", options.tag]))


def run(options: argparse.Namespace) -> None:
    """One run, unless its result is there."""
    folder = options.out.resolve() / name_of(options)
    file = options.results.resolve() / f"{folder.name}.json"
    if file.is_file() or options.dry_run:
        print(f"{folder.name}: {'is there' if file.is_file() else 'would run'}", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    weights, data = lay_out(options)
    trained = folder / "train" / "weights"
    began, resumed = time.perf_counter(), (trained / "last.pt").is_file()
    if not resumed:
        ours = ["--slim-round", options.round, *WAYS[options.way], options.target]
        launch("yolov5.train", "--weights", weights, "--data", data, "--imgsz", options.imgsz, "--batch-size",
               SETS[options.set]["batch"], "--epochs", options.epochs, "--seed", options.seed,
               "--workers", options.workers, "--device", options.device, "--cache", "--noplots",
               "--noautoanchor", "--project", folder, "--name", "train", "--exist-ok", *ours, *options.rest,
               log=folder / "log.txt")  # fmt: skip
    elif epochs_of(folder) < options.epochs:
        launch("yolov5.train", "--resume", trained / "last.pt", log=folder / "log.txt")
    seconds = time.perf_counter() - began
    found = measure(trained / "last.pt", data, folder, options)
    keys = ("set", "cut", "way", "target", "round", "seed", "epochs", "tag", "imgsz", "rest")
    result: dict[str, Any] = {key: getattr(options, key) for key in keys}
    result |= {"resumed": resumed, "seconds": None if resumed else round(seconds)}
    result |= {"device": device_name(options.device), "last": found}
    report = folder / "train" / "prune" / "slim" / "report.json"
    if report.is_file():
        content = json.loads(report.read_text())
        result |= {"left": {key: content["after"][key] / content["before"][key] for key in ("flops", "params")}}
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as place:
        place.write_text(json.dumps(result, indent=2) + "\n")
    (trained / "best.pt").unlink(missing_ok=True)
    print(f"{folder.name}: {found['map']:.3f}", flush=True)


def epochs_of(folder: Path) -> int:
    """How many epochs of a run are in its results.csv."""
    file = folder / "train" / "results.csv"
    return len(file.read_text().splitlines()) - 1 if file.is_file() else 0


def table(folder: Path, data: str, cut: bool) -> None:
    """Means over seeds, and what is lost against the dense control of the same epochs."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for file in folder.glob("*.json"):
        one = json.loads(file.read_text())
        if one["set"] == data and one["cut"] == cut:
            target = f"{one['target']}, round {one['round']}"
            found[(one["epochs"], 1 + list(WAYS).index(one["way"]), target, one["tag"])].append(one)
    for file in (folder.parent / "dns_detect").glob(f"{data}-cut-dense-*.json" if cut else f"{data}-dense-*.json"):
        one = json.loads(file.read_text())
        found[(one["epochs"], 0, "", "")].append(one)
    rows, dense = [], {}
    for (epochs, way, target, tag), runs in sorted(found.items()):
        last = [one["last"]["map"] for one in runs]
        if not way:
            dense[epochs] = statistics.mean(last)
        left = [one["left"] for one in runs if "left" in one]
        shares = [f"{statistics.mean(one[key] for one in left):.3f}" if left else "1" for key in ("flops", "params")]
        lost = f"{statistics.mean(last) - dense[epochs]:+.3f}" if epochs in dense else "-"
        rows.append((("dense", *WAYS)[way], target, tag, str(epochs), *shares, f"{statistics.mean(last):.3f}",
                     f"{min(last):.3f}-{max(last):.3f}", lost, str(len(runs))))  # fmt: skip
    where = f"{data}, validated on training images" if cut else data
    print_table(f"yolov5n on {where}, after fine-tuning", ("way", "asked", "tag", "epochs", "FLOPs", "params",
                "mAP50-95", "of seeds", "to dense", "seeds"), rows)  # fmt: skip


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "slim_detect")
    parser.add_argument("--way", choices=tuple(WAYS), default="distill")
    parser.add_argument("--target", default="flops=0.5")
    parser.add_argument("--round", type=int, default=16, help="--slim-round (16: CPUs with AVX-512)")
    parser.add_argument("--all", action="store_true", help="flops=0.5 with three seeds, others with one")
    options = parse(parser)
    if options.table:
        table(options.results, options.set, options.cut)
        return
    plan = [(options.way, options.target, options.seed)]
    if options.all:
        plan = [(way, "flops=0.5", seed) for seed in range(3) for way in WAYS]
        plan += [(way, target, 0) for target in TARGETS if target != "flops=0.5" for way in WAYS]
    for way, target, seed in plan:
        run(argparse.Namespace(**{**vars(options), "way": way, "target": target, "seed": seed}))
    if options.all:
        table(options.results, options.set, options.cut)


if __name__ == "__main__":
    main()
