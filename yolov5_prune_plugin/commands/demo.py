"""``yolov5-prune demo``: the embedded detector pruned two ways, packed and timed, by the package yolov5, offline."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from yolov5_prune_plugin.core.runtime.native import missing
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import data_dir
from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.next_steps import ours, say_next
from yolov5_prune_plugin.reporting.tables import Table

QUICK = ("--prune-calib", 64, "--prune-tune", 0)  # of 128 images and 200 steps: a demo is for a minute or two


def lay_out(folder: Path) -> Path:
    """Copy the embedded data set, so that upstream's label caches stay out of ours.

    Args:
        folder: Where to; made if missing.

    Returns:
        The data-set file for --data, with absolute paths.
    """
    try:
        shutil.copytree(data_dir() / "shapes", folder / "shapes", dirs_exist_ok=True)
        content = yaml.safe_load((folder / "shapes" / "shapes.yaml").read_text(encoding="utf-8"))
        file = folder / "shapes.yaml"
        content["path"] = str((folder / "shapes").resolve())
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise PruneError(f"--out {folder}: cannot be written: {error}") from error
    return file


def demo(sparsity: float, out: Path) -> int:
    """Prune the embedded detector by magnitude and by obs, pack and time what obs left, and show all side by side.

    Args:
        sparsity: Share of weights to zero, in [0, 1).
        out: Folder for data set and results; made if missing.

    Returns:
        Exit code of the first command that failed, or 0.

    Raises:
        PruneError: If the package yolov5 is missing, or ``out`` can't be written.
    """
    if importlib.util.find_spec("yolov5") is None:
        raise PruneError("demo needs the PyPI package yolov5: pip install 'yolov5-prune-plugin[demo]'")
    data, weights = lay_out(out), data_dir() / "shapes-yolov5n.pt"
    sparse, packed = out / "sparse.pt", out / "sparse.y5z"
    val = ("run", "yolov5.val", "--data", data, "--imgsz", 320, "--batch-size", 8, "--workers", 2, "--device", "cpu",
           "--project", out, "--exist-ok")  # fmt: skip
    prune = (*val, "--weights", weights, "--prune", f"{sparsity:g}")
    steps = {
        "the smallest weights of each layer go": (*prune, "--name", "magnitude", "--prune-baseline"),
        "second order: some training images say which weights go, four outputs together, and the others make up for it":
            (*prune, "--name", "obs", "--prune-method", "obs", "--prune-granularity", "4x1", *QUICK, "--prune-save",
             sparse),
        "zeros take next to no room, and the others become at most 254 values a layer":
            ("compress", sparse, "-o", packed, "--data", data, "--imgsz", 320),
    }  # fmt: skip
    if not missing():
        steps["zeros that stand together are left out on the CPU"] = (
            "bench", weights, sparse, "--runtimes", "pytorch", "sparse", "--imgsz", 320, "--batches", 1, "--rounds", 20,
            "--project", out / "bench")  # fmt: skip
    shutil.rmtree(out / "bench", ignore_errors=True)
    for file in (sparse, packed):
        file.unlink(missing_ok=True)  # of an earlier demo
    # where other work takes a core, threads that wait for each other awake take ten times as long as asleep
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    for what, words in steps.items():
        print(f"\n# {what}\n{ours(*words)}", flush=True)
        code = subprocess.call([sys.executable, "-m", "yolov5_prune_plugin", *map(str, words)], env=environment)
        if code:
            return code
    _show(out, weights, sparse, packed)
    return 0


def _show(out: Path, weights: Path, sparse: Path, packed: Path) -> None:
    magnitude, obs = (_report(out / name / "prune") for name in ("magnitude", "obs"))
    share = f"{obs['requested_sparsity']:.0%} of the weights zero"
    timed = _times(out / "bench")
    rows = [
        ("the detector", magnitude["baseline"]["map"], weights.stat().st_size, weights.stem),
        (f"{share}, by magnitude", magnitude["map"], None, ""),
        (f"{share}, by obs in blocks", obs["map"], sparse.stat().st_size, sparse.stem),
        ("that one packed", _report(out / "sparse_compress")["lost"]["after"], packed.stat().st_size, ""),
    ]
    table = Table("what came out")
    table.column("", "text")
    table.column("mAP50-95")
    table.column("bytes")
    if timed:
        table.column("ms in PyTorch")
        table.column("in the sparse runtime")
    for name, value, size, model in rows:
        ms = [timed.get((runtime, model), "") for runtime in ("pytorch", "sparse")] if timed else []
        table.row(name, f"{value:.4f}", "" if size is None else f"{size:,}", *ms)
    console = plain_console()
    console.print(table)
    if not timed:
        console.print("Without llvmlite nothing was timed in the sparse runtime: pip install"
                      " 'yolov5-prune-plugin[runtime]'", soft_wrap=True, markup=False)  # fmt: skip
    for what, file in (
        ("which layers gave how much", out / "obs" / "prune" / "layers.png"),
        ("what the detector sees", out / "obs" / "val_batch0_pred.jpg"),
        ("where the bytes of the file are", out / "sparse_compress" / "layers.png"),
    ):
        console.print(f"look at {file}: {what}", soft_wrap=True)
    console.print(f"report: {out}", soft_wrap=True)
    on = ("--data", out / "shapes.yaml", "--imgsz", 320)
    say_next(console, {
        "the file is weights like any others": ours("run", "yolov5.val", "--weights", packed, *on),
        "a library that runs without Python": ours("compile", sparse, "-o", out / "detector.so", "--imgsz", 320),
        "train, to have more zeros": ours("run", "yolov5.train", "--weights", weights, *on, "--dns"),
    })  # fmt: skip


def _times(folder: Path) -> dict[tuple[str, str], str]:
    """Milliseconds an image, by runtime and model; none if nothing was timed."""
    file = folder / "bench.json"
    if not file.is_file():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))["latency"]
    return {(one["runtime"], one["model"]): f"{one['ms']:.1f}" for one in found}


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found
