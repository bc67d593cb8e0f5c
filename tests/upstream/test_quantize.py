"""yolov5-prune quantize: INT8 models that stock val.py and detect.py run, about as accurate as what they are of."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("onnxruntime")
from tests.upstream.conftest import WEIGHTS, Release, run
from tests.upstream.test_bits import PLAIN

pytestmark = pytest.mark.upstream


def quantize(release: Release, *arguments: object, cwd: Path, ok: bool = True) -> str:
    return run("-m", "yolov5_prune_plugin", "quantize", *arguments, "--imgsz", 128, "--repo", release.folder, cwd=cwd,
               ok=ok)  # fmt: skip


def test_onnx(clone: Release, training_shapes: Path, shapes: Path, tmp_path: Path) -> None:
    """Within two points of floating point on the embedded set; a quarter of the bytes; stock detect.py runs it."""
    printed = quantize(clone, WEIGHTS, "-o", tmp_path / "q.onnx", "--data", training_shapes, "--calib", 16, "--rounds",
                       3, cwd=tmp_path)  # fmt: skip
    assert "layers stay in floating point" in printed
    report = json.loads((tmp_path / "q_quantize" / "report.json").read_text())
    assert report["before"]["map"] > 0.1
    assert report["after"]["map"] > report["before"]["map"] - 0.02
    assert report["bytes_after"] < 0.5 * report["bytes_before"]
    layers = pd.read_csv(tmp_path / "q_quantize" / "layers.csv")
    assert set(layers[~layers["int8"]]["layer"]) == set(report["fp32_layers"])
    assert len(report["fp32_layers"]) <= 0.1 * len(layers)
    assert report["end_layers"] == 4
    assert (tmp_path / "q_quantize" / "layers.png").stat().st_size > 5000
    image = next((shapes.parent / "shapes" / "images" / "val").glob("*.jpg"))
    run("-c", PLAIN, clone.folder / "detect.py", "--weights", tmp_path / "q.onnx", "--source", image, "--imgsz", 128,
        "--device", "cpu", "--project", tmp_path, "--name", "x", cwd=tmp_path)  # fmt: skip


def test_a_budget(clone: Release, training_shapes: Path, tmp_path: Path) -> None:
    """Judged on training images that calibration has not seen; the val split is not even needed."""
    more = ("--budget", 100, "--budget-images", 3, "--no-val", "--rounds", 0)
    printed = quantize(clone, WEIGHTS, "-o", tmp_path / "q.onnx", "--data", training_shapes, "--calib", 4, *more,
                       cwd=tmp_path)  # fmt: skip
    assert "layers are chosen on 3 training images that calibration has not seen" in printed
    report = json.loads((tmp_path / "q_quantize" / "report.json").read_text())
    assert report["before"] is report["after"] is None
    assert report["budget_images"] == 3
    assert [one["fp32_layers"] for one in report["tried"]] == [0]
    assert report["fp32_layers"] == []


@pytest.mark.skipif(find_spec("nncf") is None, reason="needs nncf, of the extra int8")
def test_openvino(clone: Release, training_shapes: Path, tmp_path: Path) -> None:
    """The folder that upstream knows, with names and stride; layers that are named stay as they are."""
    folder = tmp_path / "q_openvino_model"
    quantize(clone, WEIGHTS, "-o", folder, "--data", training_shapes, "--calib", 8, "--rounds", 0, "--keep-fp32", 30,
             cwd=tmp_path)  # fmt: skip
    assert sorted(file.suffix for file in folder.iterdir()) == [".bin", ".xml", ".yaml"]
    report = json.loads((tmp_path / "q_openvino_model_quantize" / "report.json").read_text())
    assert len(report["fp32_layers"]) == 30
    assert report["after"]["map"] > report["before"]["map"] - 0.05


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-o", "q.engine"), "-o q.engine: must end in .onnx"),
        (("-o", "q.onnx", "--budget", 1, "--keep-fp32", 2), "leave --keep-fp32 out"),
        (("-o", "q.onnx", "--budget", 101), "--budget 101: must be points of mAP"),
        (("-o", "there.onnx"), "-o there.onnx: exists already"),
        (("-o", "q.onnx", "--budget", 1), "none is left to choose by; take fewer (--calib)"),
    ],
    ids=["format", "keep-fp32", "budget", "there", "few"],
)
def test_wrong_input(clone: Release, shapes: Path, tmp_path: Path, more: tuple[object, ...], message: str) -> None:
    (tmp_path / "there.onnx").write_text("mine")
    assert message in quantize(clone, WEIGHTS, *more, "--data", shapes, cwd=tmp_path, ok=False)
    assert (tmp_path / "there.onnx").read_text() == "mine"
    assert not list(tmp_path.glob("q*"))
