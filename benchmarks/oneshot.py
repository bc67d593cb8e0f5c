"""One-shot pruning: magnitude beside obs, through the real val.py, with seconds and peak memory of each run.

    python -m benchmarks.oneshot [--set coco|bccd|shapes|x] [--release master|v7.0|7.0.14] [--shared DIR]
                                 [--only NAME ...]

``coco``: yolov5n, official weights, first 128 images of COCO val2017 at 640, calibrated on coco128 (train2017).
``bccd``: yolov5n fine-tuned on the train split of BCCD, its val split at 320. ``shapes``: the embedded detector at 320.
``x``: a freshly built yolov5x (random weights) at 640, for memory alone, few images and steps. No labels are used for
calibration, and no image of the validation split. Runs follow one another; the first line of each table is dense.
``x`` is always built and run by the PyPI package, whose classes are in the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.accuracy import FIGURES, coco, prepare
from benchmarks.table import print_table
from yolov5_prune_plugin.commands.demo import lay_out
from yolov5_prune_plugin.files import data_dir

OBS = ("--prune-method", "obs")
GLOBAL = ("--prune-distribution", "global")
NM = ("--prune-granularity", "2:4")
RUNS: dict[str, tuple[str, ...]] = {"dense": ("--prune", "0")}
for amount in ("0.3", "0.5", "0.6"):
    RUNS |= {
        f"{amount} magnitude, uniform": ("--prune", amount),
        f"{amount} magnitude, global": ("--prune", amount, *GLOBAL),
        f"{amount} obs, no tuning": ("--prune", amount, *OBS, "--prune-tune", "0"),
        f"{amount} obs": ("--prune", amount, *OBS),
    }
RUNS |= {
    "2:4 magnitude": ("--prune", "0.5", *NM),
    "2:4 obs, no tuning": ("--prune", "0.5", *NM, *OBS, "--prune-tune", "0"),
    "2:4 obs": ("--prune", "0.5", *NM, *OBS),
    "2:4 obs, first blocks dense": ("--prune", "0.5", *NM, *OBS, "--prune-exclude", "model.[0-4].*"),
}
LARGE = {"0.5 obs, 8 images, 2 steps": ("--prune", "0.5", *OBS, "--prune-calib", "8", "--prune-tune", "2")}


def main() -> None:
    """Run them in turn and print one table."""
    mirror = os.environ.get("YOLOV5_MIRROR")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared")))
    parser.add_argument("--release", default="master" if mirror else "7.0.14")
    parser.add_argument("--set", choices=("coco", "bccd", "shapes", "x"), default="coco")
    parser.add_argument("--only", nargs="+", help="lines of the table, such as '0.5 obs'")
    options = parser.parse_args()
    if options.set == "x":
        options.release = "7.0.14"
    if options.set != "shapes" and not (options.shared / "weights" / "yolov5n.pt").is_file():
        print(f"oneshot: no official weights at {options.shared}; give --shared DIR with weights/ and data/")
        return
    runs = LARGE if options.set == "x" else RUNS
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights, data, imgsz = data_of(options.set, options.shared.resolve(), folder)
        target, path = prepare(options.release, folder, mirror)
        command = [sys.executable, "-m", "yolov5_prune_plugin", "run", target, "--weights", weights, "--data", data,
                   "--imgsz", imgsz, "--batch-size", "8", "--device", "cpu", "--project", folder, "--name", "val",
                   "--exist-ok"]  # fmt: skip
        for name, flags in runs.items():
            if options.only and name not in options.only:
                continue
            (folder / "val" / "prune" / "report.json").unlink(missing_ok=True)
            seconds, megabytes = run([*command, *flags], path)
            report = json.loads((folder / "val" / "prune" / "report.json").read_text())
            rows.append((name, f"{report['conv_sparsity']:.3f}", *(f"{report[figure]:.3f}" for figure in FIGURES),
                         f"{report['seconds']:.0f}", f"{seconds:.0f}", f"{megabytes / 1024:.1f}"))  # fmt: skip
            print("|", *rows[-1], flush=True)  # progress
    print_table(
        f"{options.set}: {weights.name}, {options.release}, {report['pruned_weights']} weights",
        ("", "sparsity", "P", "R", "mAP50", "mAP50-95", "s to prune", "s in all", "peak GiB"),
        rows,
    )


def data_of(name: str, shared: Path, folder: Path) -> tuple[Path, Path, str]:
    """Weights, data file and image size."""
    if name == "shapes":
        return data_dir() / "shapes-yolov5n.pt", lay_out(folder), "320"
    weights, data = coco(shared, folder / "data")
    if name == "bccd":
        return shared / "weights" / "bccd-yolov5n.pt", data.with_name("bccd.yaml"), "320"
    return (built("yolov5x", folder / "yolov5x.pt") if name == "x" else weights), data, "640"


def built(name: str, file: Path) -> Path:
    """A checkpoint of a model with random weights."""
    code = ("import importlib.util, pathlib, sys;"
            "place = pathlib.Path(importlib.util.find_spec('yolov5').origin).parent;"
            "from yolov5_prune_plugin.yolov5.compat.apply import apply; apply(str(place)); sys.path.append(str(place));"
            "import torch; from yolov5.models.yolo import Model;"
            "model = Model(str(place / 'models' / f'{sys.argv[1]}.yaml')).half();"
            "model.nc = model.yaml['nc'];"  # as train.py does
            "torch.save({'model': model, 'ema': None}, sys.argv[2])")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, name, file], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    return file


def run(command: list[object], path: str) -> tuple[float, float]:
    """Seconds and peak MiB of a process of its own; its output is shown if it fails, or if NMS left out images."""
    started = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), env={**os.environ, "PYTHONPATH": path}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(printed[-5000:])
        raise SystemExit(f"exit code {process.returncode}")
    for line in printed.splitlines():
        if "not a measurement" in line:
            print(line)
    return time.perf_counter() - started, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
