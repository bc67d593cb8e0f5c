"""What the tests of train.py share: its arguments, a look into checkpoints, and a driver that interferes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.upstream.conftest import WEIGHTS, Release, run

LOOK = """
import json, sys
from importlib.util import find_spec
root = {folder!r} if {folder!r} != "None" else find_spec("yolov5").submodule_search_locations[0]
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply(root)
sys.path.insert(0 if {folder!r} != "None" else len(sys.path), root)
import torch
found = {{}}
for file in sys.argv[1:]:
    content = torch.load(file, map_location="cpu", weights_only=False)
    found[file] = one = {{"keys": sorted(content), "epoch": content["epoch"], "optimizer": bool(content["optimizer"])}}
    for entry in ("model", "ema"):
        if content.get(entry) is not None:
            weights = [m.weight for m in content[entry].modules() if isinstance(m, torch.nn.Conv2d)]
            zeros = sum(int((w == 0).sum()) for w in weights)
            one[entry] = [zeros, sum(w.numel() for w in weights)]
            one[entry + "_layers"] = [int((w == 0).sum()) for w in weights]
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in content[entry].modules())
print("LOOK" + json.dumps(found))
"""

# yolov5-prune run, with something of ours done before it: {before} may use what is imported here
DRIVE = """
import os, sys
import torch
from pathlib import Path
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.yolov5.compat.apply import apply
from yolov5_prune_plugin.yolov5.scripts.launcher import launch, locate
apply(locate(sys.argv[1])[0])
{before}
launch(sys.argv[1], sys.argv[2:])
"""


def train_arguments(data: Path, folder: Path, name: str = "t", weights: Path = WEIGHTS) -> list[object]:
    """Arguments that every train.py for detection knows; two batches an epoch."""
    return ["--weights", weights, "--data", data, "--imgsz", 64, "--batch-size", 8, "--epochs", 2, "--workers", 0,
            "--device", "cpu", "--project", folder, "--name", name, "--exist-ok"]  # fmt: skip


def drive(before: str, target: str, *arguments: object, cwd: Path, ok: bool = True) -> str:
    """Launch a script of an installed or cloned YOLOv5 after some lines of code."""
    return run("-c", DRIVE.format(before=before), target, *arguments, cwd=cwd, ok=ok)


def look(release: Release, *files: Path, cwd: Path) -> dict[str, Any]:
    """What is in checkpoints, by file name, as the release itself opens them; nothing of ours may be in them."""
    for file in files:
        assert b"yolov5_prune_plugin" not in file.read_bytes()
    printed = run("-c", LOOK.format(folder=str(release.folder)), *files, cwd=cwd, path=release.python_path)
    found = json.loads(printed.partition("LOOK")[2])
    return {Path(file).name: content for file, content in found.items()}


def report(folder: Path) -> dict[str, Any]:
    """report.json of a run."""
    return dict(json.loads((folder / "prune" / "report.json").read_text()))
