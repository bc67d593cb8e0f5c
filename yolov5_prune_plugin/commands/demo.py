"""``yolov5-prune demo``: the embedded detector, validated dense and pruned by the PyPI package yolov5, offline."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import data_dir


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
    """Validate the embedded detector dense and pruned.

    Args:
        sparsity: Share of weights to zero, in [0, 1).
        out: Folder for data set and results; made if missing.

    Returns:
        Exit code of the validation.

    Raises:
        PruneError: If the package yolov5 is missing, or ``out`` can't be written.
    """
    if importlib.util.find_spec("yolov5") is None:
        raise PruneError("demo needs the PyPI package yolov5: pip install 'yolov5-prune-plugin[demo]'")
    data = lay_out(out)
    arguments = ["--weights", str(data_dir() / "shapes-yolov5n.pt"), "--data", str(data), "--imgsz", "320",
                 "--batch-size", "8", "--workers", "2", "--device", "cpu", "--project", str(out), "--name", "val",
                 "--prune", str(sparsity), "--prune-baseline"]  # fmt: skip
    print("yolov5-prune run yolov5.val", *arguments, flush=True)
    return subprocess.call([sys.executable, "-m", "yolov5_prune_plugin", "run", "yolov5.val", *arguments])
