"""Blocks and amounts for speed in the real scripts: what was asked for is in the files, packed ones included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.upstream.conftest import Release, run, val_arguments
from tests.upstream.training import report, train_arguments

pytestmark = pytest.mark.upstream

BLOCKS = """
import sys, torch
from importlib.util import find_spec
from yolov5_prune_plugin.yolov5.compat.apply import apply
root = find_spec("yolov5").submodule_search_locations[0]
apply(root); sys.path.append(root)
model = torch.load(sys.argv[1], map_location="cpu", weights_only=False)["model"]
whole = broken = 0
for m in model.modules():
    if isinstance(m, torch.nn.Conv2d):
        for block in (m.weight == 0).split(4):
            whole += int(block.all(0).sum()) * len(block)
            broken += int((block.any(0) & ~block.all(0)).sum())
print("BLOCKS", whole, broken)
"""


def blocks_in(file: Path) -> tuple[int, int]:
    """Zeros that stand in blocks of four output channels, and blocks that are zero in part."""
    found = run("-c", BLOCKS, file, cwd=file.parent).partition("BLOCKS")[2].split()
    return int(found[0]), int(found[1])


def test_one_shot_packed_and_inspected(shapes: Path, tmp_path: Path) -> None:
    """70% of the multiplications are left, in blocks; the packed file says the same of itself."""
    saved = tmp_path / "p.pt"
    Release("7.0.14").launch("val.py", *val_arguments(shapes, tmp_path), "--prune-target", "flops=0.7",
                             "--prune-granularity", "4x1", "--prune-save", saved, cwd=tmp_path)  # fmt: skip
    said = report(tmp_path / "val")
    assert 0.29 < said["multiplication_sparsity"] - 1e-9 < 0.32
    assert said["zeros_in_4x1"] == pytest.approx(1, abs=1e-4)  # a few were zero before
    whole, broken = blocks_in(saved)
    assert whole >= 0.999 * said["conv_zeros"]
    assert broken < 100  # a few weights that fp16 rounds to zero
    packed = tmp_path / "p.y5z"
    printed = run("-m", "yolov5_prune_plugin", "compress", saved, "-o", packed, "--lossless", cwd=tmp_path)
    assert "M multiplications at 640x640" in printed
    printed = run("-m", "yolov5_prune_plugin", "inspect", packed, "--imgsz", 320, cwd=tmp_path)
    assert "zeros / multiplications" in printed
    assert f"{said['multiplication_sparsity']:.1%} of" in printed
    assert "at 320x320" in printed


def test_training_in_blocks_for_speed(training_shapes: Path, tmp_path: Path) -> None:
    """A few layers, amounts from the curvature on training images; last.pt has the pattern."""
    run("-m", "yolov5_prune_plugin", "run", "yolov5.train", *train_arguments(training_shapes, tmp_path), "--dns",
        "--dns-target", "flops=0.95", "--dns-granularity", "4x1", "--dns-layers", "model.2.*", "model.6.*",
        cwd=tmp_path)  # fmt: skip
    said = report(tmp_path / "t")
    assert said["frozen"]
    assert said["granularity"] == "4x1"
    last = said["saved"]["last.pt"]
    assert 0.045 < last["multiplication_sparsity"] < 0.07
    whole, broken = blocks_in(tmp_path / "t" / "weights" / "last.pt")
    assert whole >= 0.999 * last["zeros_in_4x1"] * last["conv_zeros"]
    assert broken < 100
    history = json.loads((tmp_path / "t" / "prune" / "report.json").read_text())["history"]
    assert history[-1]["pruned"] + history[0]["pruned"] > 0
