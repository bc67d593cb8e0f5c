"""Sparse training of yolov5n by the real train.py: dense, one-shot and fine-tuned, pruned and retrained, GMP, DNS.

    python -m benchmarks.dns_detect --set bccd --way dns --sparsity 0.8 --seed 0    one run
    python -m benchmarks.dns_detect --set bccd --all                                all of the table, in turn
    python -m benchmarks.dns_detect --set bccd --all --dry-run                      what that would run
    python -m benchmarks.dns_detect --set bccd --table                              what there is, as a table
    python -m benchmarks.dns_detect --set bccd --way speed --sparsity 0.8 --tag 4x1 -- --dns-granularity 4x1
                                                                       80% of the multiplications, in blocks
    python -m benchmarks.dns_detect --cut --way dns --tag later -- --dns-stop 0.7   try a choice, val split unopened

bccd starts from weights/bccd-yolov5n.pt in --shared at 320, coco from yolov5n.pt on coco128, measured on coco-val128.
Each run has a folder in --out with the script's own output. What it ends with, last.pt, is then measured by val.py in
small batches, where the NMS time limit does not bite, and a JSON file is written to --results; best.pt, which is picked
on the val split, is not looked at. A run whose file is there is passed over, so the same command goes on after an
interruption, with the run that was interrupted. Flags after -- go to train.py. With --cut every fifth training image is
validated on instead, and not trained on: choices are made there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.detect import SETS, add_arguments, device_name, launch, lay_out, measure, parse
from benchmarks.table import print_table
from yolov5_prune_plugin.files import written_whole

WAYS = ("dense", "finetune", "retrain", "gmp", "dns", "speed")
SPARSITIES = (0.7, 0.8, 0.9, 0.95)


def flags_of(way: str, sparsity: float, distribution: str) -> list[str]:
    """Our flags."""
    share = str(sparsity)
    return {
        "dense": [],
        "finetune": [],  # from a model that was pruned in one shot, without us: its zeros are lost
        "retrain": ["--prune", share, "--prune-distribution", distribution],
        "gmp": ["--gmp", "--gmp-sparsity", share, "--gmp-distribution", distribution],
        # of the multiplications; blocks by: --way speed --tag 4x1 -- --dns-granularity 4x1
        "speed": ["--dns", "--dns-target", f"flops={1 - sparsity:g}"],
        "dns": ["--dns", "--dns-sparsity", share, "--dns-distribution", distribution],
    }[way]


def name_of(options: argparse.Namespace) -> str:
    """The folder of a run."""
    how = options.way if options.way == "dense" else f"{options.way}-{options.distribution}-{options.sparsity:g}"
    data = f"{options.set}-cut" if options.cut else options.set
    return "-".join(filter(None, [data, how, f"e{options.epochs}", f"seed{options.seed}", options.tag]))


def run(options: argparse.Namespace) -> None:
    """One run, unless its result is there."""
    folder = options.out.resolve() / name_of(options)
    file = options.results.resolve() / f"{folder.name}.json"
    if file.is_file():
        print(f"{folder.name}: is there", flush=True)
        return
    if options.dry_run:
        print(f"{folder.name}: would run", flush=True)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights, data = lay_out(options)
    began = time.perf_counter()
    before: dict[str, Any] = {}
    if options.way == "finetune":
        pruned = folder / "pruned.pt"
        launch("yolov5.val", "--weights", weights, "--data", data, "--imgsz", options.imgsz, "--batch-size", 8,
               "--device", options.device, "--project", folder, "--name", "pruned", "--prune", options.sparsity,
               "--prune-distribution", options.distribution,
               "--prune-save", pruned, log=folder / "log.txt")  # fmt: skip
        before = json.loads((folder / "pruned" / "prune" / "report.json").read_text())
        weights = pruned
    ours = flags_of(options.way, options.sparsity, options.distribution)
    launch("yolov5.train", "--weights", weights, "--data", data, "--imgsz", options.imgsz, "--batch-size",
           SETS[options.set]["batch"], "--epochs", options.epochs, "--seed", options.seed, "--workers", options.workers,
           "--device", options.device, "--cache", "--noplots", "--project", folder, "--name", "train", *ours,
           *options.rest, log=folder / "log.txt")  # fmt: skip
    seconds = time.perf_counter() - began
    trained = folder / "train" / "weights"
    found = measure(trained / "last.pt", data, folder, options)
    keys = ("set", "cut", "way", "sparsity", "distribution", "seed", "epochs", "tag")
    result = {key: getattr(options, key) for key in keys}
    result |= {
        "imgsz": options.imgsz,
        "rest": options.rest,
        "seconds": round(seconds),
        "device": device_name(options.device),
        "pruned": before.get("map"),
        "last": found,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as place:
        place.write_text(json.dumps(result, indent=2) + "\n")
    for weights in (trained / "best.pt", folder / "pruned.pt"):
        weights.unlink(missing_ok=True)
    print(f"{folder.name}: {found['map']:.3f} at {found['conv_sparsity']:.3f}, {seconds / 60:.0f} min", flush=True)


def table(folder: Path, data: str, cut: bool) -> None:
    """Means over seeds."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for file in folder.glob("*.json"):
        one = json.loads(file.read_text())
        if one["set"] == data and one["cut"] == cut:
            sparsity = 0.0 if one["way"] == "dense" else one["sparsity"]
            how = "" if one["way"] == "dense" else one["distribution"]
            found[(sparsity, WAYS.index(one["way"]), one["way"], how, one["epochs"], one["tag"])].append(one)
    rows = []
    for (sparsity, _, way, how, epochs, tag), runs in sorted(found.items()):
        last = [one["last"]["map"] for one in runs]
        zeros = statistics.mean(one["last"]["conv_sparsity"] for one in runs)
        rows.append((f"{sparsity:g}", way, how, str(epochs), tag, f"{zeros:.3f}", f"{statistics.mean(last):.3f}",
                     f"{min(last):.3f}-{max(last):.3f}", str(len(runs))))  # fmt: skip
    where = f"{data}, validated on training images" if cut else data
    print_table(f"yolov5n on {where}, after training", ("asked", "way", "layers", "epochs", "tag", "zeros",
                "mAP50-95", "of seeds", "seeds"), rows)  # fmt: skip


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "dns_detect")
    parser.add_argument("--way", choices=WAYS, default="dns")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--distribution", default="lamp", help="lamp (default), global, erk, uniform")
    parser.add_argument("--all", action="store_true", help="every way at every sparsity; three seeds of gmp and dns")
    options = parse(parser)
    if options.table:
        table(options.results, options.set, options.cut)
        return
    plan = [(options.way, options.sparsity, options.seed)]
    if options.all:
        plan = [("dense", 0.0, seed) for seed in range(3)]
        plan += [(way, sparsity, seed) for sparsity in SPARSITIES for way in WAYS[1:5]
                 for seed in range(3 if way in ("gmp", "dns") else 1)]  # fmt: skip
    for way, sparsity, seed in plan:
        run(argparse.Namespace(**{**vars(options), "way": way, "sparsity": sparsity, "seed": seed}))
    if options.all:
        table(options.results, options.set, options.cut)


if __name__ == "__main__":
    main()
