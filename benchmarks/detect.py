"""What the benchmarks that train detectors share: data sets, the scripts as processes, the measuring, the flags."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

SETS = {
    "bccd": {"weights": "bccd-yolov5n.pt", "data": "bccd.yaml", "imgsz": 320, "epochs": 60, "batch": 16},
    "coco": {"weights": "yolov5n.pt", "data": "coco.yaml", "imgsz": 640, "epochs": 20, "batch": 16},
}


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


def compress(weights: Path, file: Path, log: Path, *flags: object) -> int:
    """Bytes of the file that ``yolov5-prune compress`` writes."""
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "yolov5_prune_plugin", "compress", weights, "-o", file, *flags]
    with open(log, "a") as stream:
        subprocess.run(list(map(str, command)), check=True, stdout=stream, stderr=subprocess.STDOUT)
    return file.stat().st_size


def device_name(device: str) -> str:
    """For the record."""
    return "CPU" if device == "cpu" else torch.cuda.get_device_name(int(device))


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


def lay_out(options: argparse.Namespace) -> tuple[Path, Path]:
    """Weights to start from, and the data file of the set, or that of its cut."""
    shared, place = options.shared.resolve(), options.out.resolve() / "data"
    subprocess.run([sys.executable, shared / "data" / "make_yaml.py", place], check=True, stdout=subprocess.DEVNULL)
    chosen = SETS[options.set]
    data = place / str(chosen["data"])
    return shared / "weights" / str(chosen["weights"]), cut_off(data) if options.cut else data


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Flags that all of them have; ``name`` is that of the benchmark."""
    parser.add_argument("--set", choices=tuple(SETS), default="bccd")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="60 and 20")
    parser.add_argument("--imgsz", type=int, help="320 and 640")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tag", default="", help="part of the folder's name, for variants that are tried")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results") / name)
    parser.add_argument("--cut", action="store_true", help="validate on a part of the training images, to choose by")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--table", action="store_true")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags, with those behind -- as ``rest``; it ends here, with a line, if there are no weights to start from."""
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:end])
    options.rest = sys.argv[end + 1 :]
    options.epochs = options.epochs or SETS[options.set]["epochs"]
    options.imgsz = options.imgsz or SETS[options.set]["imgsz"]
    if not options.table and not (options.shared / "weights" / str(SETS[options.set]["weights"])).is_file():
        print(f"{parser.prog}: no weights at {options.shared}; give --shared DIR with weights/ and data/")
        raise SystemExit(0)
    return options
