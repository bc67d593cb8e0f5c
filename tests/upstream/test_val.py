"""val.py --prune in every release: the main job."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments

pytestmark = pytest.mark.upstream


def test_dense_and_pruned_in_one_run(release: Release, shapes: Path, tmp_path: Path) -> None:
    """--prune 0.3 --prune-baseline prints both and writes the report, in every release."""
    printed = release.launch(
        "val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3, "--prune-baseline", cwd=tmp_path
    )

    report = json.loads((tmp_path / "val" / "prune" / "report.json").read_text())
    assert report["conv_sparsity"] == pytest.approx(0.3, abs=0.001)
    assert 0.29 < report["total_sparsity"] < report["conv_sparsity"]
    assert (report["method"], report["distribution"]) == ("magnitude", "uniform")
    assert report["baseline"]["map"] > 0.6
    assert report["map"] < report["baseline"]["map"] - 0.01
    assert len(report["baseline"]["coco"]) == 12
    assert report["baseline"]["coco"]["AP"] == pytest.approx(report["baseline"]["map"], abs=0.03)
    assert "difference" in printed
    assert "neither the model faster" in printed
    layers = pd.read_csv(tmp_path / "val" / "prune" / "layers.csv")
    assert layers["zeros"].sum() == report["conv_zeros"]
    assert (tmp_path / "val" / "prune" / "layers.png").stat().st_size > 10_000


def test_saved_model_is_what_was_measured(release: Release, shapes: Path, tmp_path: Path) -> None:
    """--prune-save writes a checkpoint that the release, without our flags, measures to the same figures."""
    saved = tmp_path / "pruned.pt"
    release.launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3, "--prune-distribution", "global",
                   "--prune-save", saved, cwd=tmp_path)  # fmt: skip
    report = json.loads((tmp_path / "val" / "prune" / "report.json").read_text())
    assert report["saved"]["largest_difference"] == 0
    assert saved.stat().st_size < WEIGHTS.stat().st_size * 1.1

    # pruning the saved model by the same amount finds the zeros that are there, and changes nothing
    release.launch("val.py", *val_arguments(shapes, tmp_path / "again", saved), "--prune", 0.3,
                   "--prune-distribution", "global", "--prune-baseline", cwd=tmp_path)  # fmt: skip
    again = json.loads((tmp_path / "again" / "val" / "prune" / "report.json").read_text())
    assert again["baseline"]["map"] == pytest.approx(report["map"], abs=1e-12)
    assert again["map"] == pytest.approx(report["map"], abs=1e-12)


def test_official_weights_on_coco(clone: Release, shared: Path, tmp_path: Path) -> None:
    """yolov5n on the first 128 images of COCO val2017: the numbers that are known of it."""
    run(shared / "data" / "make_yaml.py", tmp_path / "data", cwd=tmp_path)
    data, weights = tmp_path / "data" / "coco.yaml", shared / "weights" / "yolov5n.pt"
    arguments = [*val_arguments(data, tmp_path, weights), "--imgsz", 640]
    clone.launch(
        "val.py", *arguments, "--prune", 0.3, "--prune-distribution", "global", "--prune-baseline", cwd=tmp_path
    )
    report = json.loads((tmp_path / "val" / "prune" / "report.json").read_text())
    assert report["baseline"]["map"] == pytest.approx(0.343, abs=0.003)
    assert report["map"] == pytest.approx(0.263, abs=0.003)
