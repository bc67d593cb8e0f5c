"""Sparse training of yolov5n by the real train.py: dense, one-shot and fine-tuned, pruned and retrained, GMP, DNS.

    python -m benchmarks.dns_detect --set bccd --way dns --sparsity 0.8 --seed 0    one run
    python -m benchmarks.dns_detect --set bccd --all                                all of the table, in turn
    python -m benchmarks.dns_detect --set bccd --all --dry-run                      what that would run
    python -m benchmarks.dns_detect --set bccd --table                              what there is, as a table
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
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.table import print_table
from yolov5_prune_plugin.files import written_whole

SETS = {
    "bccd": {"weights": "bccd-yolov5n.pt", "data": "bccd.yaml", "imgsz": 320, "epochs": 60, "batch": 16},
    "coco": {"weights": "yolov5n.pt", "data": "coco.yaml", "imgsz": 640, "epochs": 20, "batch": 16},
}
WAYS = ("dense", "finetune", "retrain", "gmp", "dns")
SPARSITIES = (0.7, 0.8, 0.9, 0.95)


def flags_of(way: str, sparsity: float, distribution: str) -> list[str]:
    """Our flags."""
    share = str(sparsity)
    return {
        "dense": [],
        "finetune": [],  # from a model that was pruned in one shot, without us: its zeros are lost
        "retrain": ["--prune", share, "--prune-distribution", distribution],
        "gmp": ["--gmp", "--gmp-sparsity", share, "--gmp-distribution", distribution],
        "dns": ["--dns", "--dns-sparsity", share, "--dns-distribution", distribution],
    }[way]


def launch(script: str, *arguments: object, log: Path) -> None:
    """A script of the PyPI package in a process of its own; what it prints goes into a file.

    Raises:
        RuntimeError: If it fails, with the last lines.
    """
    command = [sys.executable, "-m", "yolov5_prune_plugin", "run", script, *map(str, arguments)]
    with open(log, "a") as stream:
        done = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "WANDB_MODE": "disabled"}
        )
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}: {log.read_text()[-1500:]}")


def measure(weights: Path, data: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """mAP by val.py in small batches, and the zeros, from the report of a run that prunes nothing."""
    launch("yolov5.val", "--weights", weights, "--data", data, "--imgsz", options.imgsz, "--batch-size", 8, "--device",
           options.device, "--workers", options.workers, "--project", folder, "--name", f"val-{weights.stem}",
           "--exist-ok", "--prune", 0, log=folder / "log.txt")  # fmt: skip
    report = json.loads((folder / f"val-{weights.stem}" / "prune" / "report.json").read_text())
    return {key: report[key] for key in ("precision", "recall", "map50", "map", "conv_sparsity", "total_sparsity")}


def device_name(device: str) -> str:
    """For the record."""
    return "CPU" if device == "cpu" else torch.cuda.get_device_name(int(device))


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
    chosen, shared = SETS[options.set], options.shared.resolve()
    laid_out = options.out.resolve() / "data"
    subprocess.run([sys.executable, shared / "data" / "make_yaml.py", laid_out], check=True, stdout=subprocess.DEVNULL)
    data, weights = laid_out / str(chosen["data"]), shared / "weights" / str(chosen["weights"])
    if options.cut:
        data = cut_off(data)
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
           chosen["batch"], "--epochs", options.epochs, "--seed", options.seed, "--workers", options.workers,
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


def cut_off(data: Path) -> Path:
    """A data file whose validation set is every fifth of the training images, with the others to train on."""
    content = yaml.safe_load(data.read_text())
    images = sorted((Path(content["path"]) / content["train"]).iterdir())
    parts = {"val": images[::5], "train": [image for i, image in enumerate(images) if i % 5]}
    for part, files in parts.items():
        content[part] = str(data.with_name(f"{data.stem}-cut-{part}.txt"))
        Path(content[part]).write_text("".join(f"{image}\n" for image in files))
    data.with_name(f"{data.stem}-cut.yaml").write_text(yaml.safe_dump(content))
    return data.with_name(f"{data.stem}-cut.yaml")


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
    parser.add_argument("--set", choices=tuple(SETS), default="bccd")
    parser.add_argument("--way", choices=WAYS, default="dns")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--distribution", default="lamp", help="lamp (default), global, erk, uniform")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="60 and 20")
    parser.add_argument("--imgsz", type=int, help="320 and 640")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tag", default="", help="part of the folder's name, for variants that are tried")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("runs/dns_detect"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/dns_detect"))
    parser.add_argument("--cut", action="store_true", help="validate on a part of the training images, to choose by")
    parser.add_argument("--all", action="store_true", help="every way at every sparsity; three seeds of gmp and dns")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--table", action="store_true")
    options, options.rest = parser.parse_known_args(sys.argv[1 : _end()])
    if options.rest:
        parser.error(f"unknown: {' '.join(options.rest)}; flags for train.py go after --")
    options.rest = sys.argv[_end() + 1 :]
    options.epochs = options.epochs or SETS[options.set]["epochs"]
    options.imgsz = options.imgsz or SETS[options.set]["imgsz"]
    if options.table:
        table(options.results, options.set, options.cut)
        return
    if not (options.shared / "weights" / str(SETS[options.set]["weights"])).is_file():
        print(f"dns_detect: no weights at {options.shared}; give --shared DIR with weights/ and data/")
        return
    plan = [(options.way, options.sparsity, options.seed)]
    if options.all:
        plan = [("dense", 0.0, seed) for seed in range(3)]
        plan += [(way, sparsity, seed) for sparsity in SPARSITIES for way in WAYS[1:]
                 for seed in range(3 if way in ("gmp", "dns") else 1)]  # fmt: skip
    for way, sparsity, seed in plan:
        run(argparse.Namespace(**{**vars(options), "way": way, "sparsity": sparsity, "seed": seed}))
    if options.all:
        table(options.results, options.set, options.cut)


def _end() -> int:
    return sys.argv.index("--") if "--" in sys.argv else len(sys.argv)


if __name__ == "__main__":
    main()
