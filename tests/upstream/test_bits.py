"""Pruned weights are upstream's own, bit for bit; and without a flag nothing changes at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments

pytestmark = pytest.mark.upstream

COMPARE = """
import sys; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
import torch
from models.common import DetectMultiBackend
from utils.torch_utils import prune
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import find_targets
from yolov5_prune_plugin.core.pruning.importance import magnitude
with torch.inference_mode():
    for sparsity in (0.1, 0.3, 0.77):
        theirs, ours = (DetectMultiBackend({weights!r}, device=torch.device("cpu")).model for _ in range(2))
        prune(theirs, sparsity)
        targets = find_targets(ours, Granularity("weight")).targets
        prune_by_scores(targets, lambda target, request: magnitude(target.weight), Request(sparsity))
        for name, value in theirs.state_dict().items():
            assert torch.equal(value.view(torch.int32), ours.state_dict()[name].view(torch.int32)), (name, sparsity)
print("the same bits")
"""


def test_pruned_weights_are_those_of_upstreams_prune(clone: Release, tmp_path: Path) -> None:
    """--prune S zeroes what utils.torch_utils.prune(model, S) zeroes at the same place, -0.0 included."""
    code = COMPARE.format(folder=str(clone.folder), weights=str(WEIGHTS))
    assert "the same bits" in run("-c", code, cwd=tmp_path)


# upstream's own script, with the shims that its release needs but without the activation
PLAIN = """
import os, runpy, sys
from yolov5_prune_plugin.yolov5.compat.apply import apply
apply(sys.argv[1])
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def patched(clone: Release, tmp_path: Path) -> Release:
    """A copy of the clone with the activation in it."""
    folder = tmp_path / "patched"
    shutil.copytree(clone.folder, folder)
    run("-m", "yolov5_prune_plugin", "patch", folder, cwd=tmp_path)
    return Release("patched", folder)


def test_predictions_without_a_flag(clone: Release, patched: Release, shapes: Path, tmp_path: Path) -> None:
    """val.py predicts the same with the activation line as without it."""
    written = {}
    for kind, release in (("plain", clone), ("patched", patched)):
        start = ["-c", PLAIN] if kind == "plain" else []
        run(*start, release.folder / "val.py", *val_arguments(shapes, tmp_path / kind), "--save-txt", "--save-conf",
            cwd=tmp_path)  # fmt: skip
        labels = sorted((tmp_path / kind / "val" / "labels").iterdir())
        written[kind] = {file.name: file.read_bytes() for file in labels}
        assert not (tmp_path / kind / "val" / "prune").exists()
    assert len(written["plain"]) == 16
    assert written["plain"] == written["patched"]


WEIGHTS_OF = """
import sys, torch; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
a, b = ((lambda c: (c.get("ema") or c["model"]).state_dict())(torch.load(f, weights_only=False)) for f in sys.argv[1:])
assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
start = torch.load({weights!r}, weights_only=False)["model"].state_dict()
assert any(not torch.equal(a[k], start[k]) for k in a), "nothing was trained"
print("the same weights")
"""


def test_training_without_a_flag(clone: Release, patched: Release, training_shapes: Path, tmp_path: Path) -> None:
    """train.py ends an epoch with the same weights with the activation line as without it (shims in both)."""
    last = []
    for kind, start in (("plain", ["-c", PLAIN, clone.folder / "train.py"]), ("ours", [patched.folder / "train.py"])):
        run(*start, "--weights", WEIGHTS, "--data", training_shapes, "--imgsz", 128, "--batch-size", 8, "--epochs", 1,
            "--workers", 0, "--device", "cpu", "--seed", 1, "--noplots", "--project", tmp_path / kind, "--name", "t",
            "--cache", cwd=tmp_path)  # fmt: skip
        last.append(tmp_path / kind / "t" / "weights" / "last.pt")
    code = WEIGHTS_OF.format(folder=str(clone.folder), weights=str(WEIGHTS))
    assert "the same weights" in run("-c", code, *last, cwd=tmp_path)
