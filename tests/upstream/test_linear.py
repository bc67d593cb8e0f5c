"""--prune-linear in the real scripts: classifiers, and detectors with attention blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.upstream.conftest import Release, run, val_arguments

pytestmark = pytest.mark.upstream

LOAD = """
import sys, torch; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
"""
TRANSFORMER = (
    LOAD
    + """
import yaml
from models.yolo import DetectionModel
torch.manual_seed(0)
with open({folder!r} + "/models/hub/yolov5s-transformer.yaml") as stream:
    model = DetectionModel({{**yaml.safe_load(stream), "width_multiple": 0.125, "nc": 4}})
model.nc, model.names = 4, dict(enumerate("abcd"))
torch.save({{"model": model.half()}}, sys.argv[1])
"""
)
ZEROS = (
    LOAD
    + """
models = [torch.load(file, weights_only=False)["model"] for file in sys.argv[1:]]
for name, p in models[1].named_parameters():
    if p.dim() == 2:
        kept = torch.equal(p, models[0].get_parameter(name) * (p != 0))
        print("LINEAR", name, int((p == 0).sum()), p.numel(), kept)
"""
)


def linear_weights(clone: Release, dense: Path, saved: Path) -> dict[str, tuple[int, int, bool]]:
    """Zeros, size, and whether what is left is as it was, of each two-dimensional parameter of a checkpoint."""
    printed = run("-c", ZEROS.format(folder=str(clone.folder)), dense, saved, cwd=saved.parent)
    found = [line.split()[1:] for line in printed.splitlines() if line.startswith("LINEAR ")]
    return {name: (int(zeros), int(size), kept == "True") for name, zeros, size, kept in found}


@pytest.mark.parametrize("method", ["magnitude", "obs"])
def test_a_classifier(clone: Release, others: Path, tmp_path: Path, method: str) -> None:
    """Its last layer, 1280 to 3, too."""
    more = ["--prune-calib", 4, "--prune-tune", 2] if method == "obs" else ["--prune-distribution", "global"]
    printed = clone.launch("classify/val.py", "--weights", others / "cls.pt", "--data", others / "cls", "--imgsz", 64,
                           "--device", "cpu", "--project", tmp_path, "--name", "x", "--prune", 0.3, "--prune-linear",
                           "--prune-method", method, *more, "--prune-save", tmp_path / "p.pt",
                           cwd=tmp_path)  # fmt: skip
    layers = pd.read_csv(tmp_path / "x" / "prune" / "layers.csv")
    assert layers["shape"].iloc[-1] == "3x1280"
    assert layers["zeros"].sum() / layers["weights"].sum() == pytest.approx(0.3, abs=0.001)
    report = json.loads((tmp_path / "x" / "prune" / "report.json").read_text())
    assert report["conv_weights"] == layers["weights"].sum() - 3840
    assert report["linear"] is True
    assert "zeros / conv and linear weights" in printed
    (entry,) = linear_weights(clone, others / "cls.pt", tmp_path / "p.pt").values()
    assert entry[0] >= layers["zeros"].iloc[-1]


def test_attention(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """A detector with transformers, 2:4: what is called is made up for, out_proj is masked, in_proj left alone."""
    weights, saved = tmp_path / "w.pt", tmp_path / "p.pt"
    run("-c", TRANSFORMER.format(folder=str(clone.folder)), weights, cwd=tmp_path)
    clone.launch("val.py", *val_arguments(shapes, tmp_path, weights), "--imgsz", 64, "--prune", 0.5, "--prune-linear",
                 "--prune-granularity", "2:4", "--prune-method", "obs", "--prune-calib", 4, "--prune-tune", 0,
                 "--prune-save", saved, cwd=tmp_path)  # fmt: skip
    found = linear_weights(clone, weights, saved)
    assert sum(name.endswith("out_proj.weight") for name in found) == 1
    for name, (zeros, size, kept) in found.items():
        assert (zeros >= size / 2) == ("in_proj" not in name), name
        assert kept == ("_proj" in name), name
