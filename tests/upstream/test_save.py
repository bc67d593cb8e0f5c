"""What --prune-save and export.py write is what stock YOLOv5 opens, with every zero in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments
from tests.upstream.test_bits import PLAIN

pytestmark = pytest.mark.upstream

ZEROS = """
import sys, torch; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
ckpt = torch.load(sys.argv[1], weights_only=False)
convs = [m.weight for m in ckpt["model"].modules() if isinstance(m, torch.nn.Conv2d)]
assert all(w.dtype == torch.float16 for w in convs) and ckpt["optimizer"] is None and ckpt["ema"] is None
assert any(isinstance(m, torch.nn.BatchNorm2d) for m in ckpt["model"].modules())
print("sparsity", sum(int((w == 0).sum()) for w in convs) / sum(w.numel() for w in convs))
"""


@pytest.fixture(scope="session")
def saved(clone: Release, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model pruned by half and saved."""
    folder = tmp_path_factory.mktemp("saved")
    clone.launch("val.py", *val_arguments(shapes, folder), "--prune", 0.5, "--prune-save", folder / "p.pt", cwd=folder)
    return folder / "p.pt"


def test_it_is_fp16_stripped_and_has_exact_zeros(clone: Release, saved: Path, tmp_path: Path) -> None:
    """Half of the convolution weights are zero in the file itself; BatchNorm is still there."""
    printed = run("-c", ZEROS.format(folder=str(clone.folder)), saved, cwd=tmp_path)
    assert float(printed.split()[-1]) == pytest.approx(0.5, abs=0.001)
    assert not list(saved.parent.glob(".*"))


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("val.py", ["--data", "{data}", "--imgsz", 320, "--batch-size", 8]),
        ("detect.py", ["--source", "{image}", "--imgsz", 320]),
        ("train.py", ["--data", "{data}", "--imgsz", 64, "--batch-size", 8, "--epochs", 1, "--workers", 0]),
    ],
)
def test_stock_scripts_open_it(
    clone: Release, saved: Path, training_shapes: Path, tmp_path: Path, script: str, arguments: list[object]
) -> None:
    """Without our activation. train.py takes all of its tensors over."""
    image = next((training_shapes.parent / "shapes" / "images" / "val").iterdir())
    filled = [str(a).format(data=training_shapes, image=image) for a in arguments]
    printed = run("-c", PLAIN, clone.folder / script, "--weights", saved, *filled, "--device", "cpu",
                  "--project", tmp_path, "--name", "x", cwd=tmp_path)  # fmt: skip
    if script == "train.py":
        assert "Transferred 349/349 items" in printed


def test_stock_export_opens_it(clone: Release, saved: Path, tmp_path: Path) -> None:
    """export.py, without our activation, writes TorchScript of it."""
    weights = tmp_path / "w.pt"
    weights.write_bytes(saved.read_bytes())
    run("-c", PLAIN, clone.folder / "export.py", "--weights", weights, "--imgsz", 64, "--include", "torchscript",
        "--device", "cpu", cwd=tmp_path)  # fmt: skip
    assert weights.with_suffix(".torchscript").stat().st_size > 1_000_000


EXPORTED = """
import sys, onnx
from onnx import numpy_helper
weights = [numpy_helper.to_array(t) for t in onnx.load(sys.argv[1]).graph.initializer if len(t.dims) == 4]
print("sparsity", sum(int((w == 0).sum()) for w in weights) / sum(w.size for w in weights))
"""


def test_zeros_are_in_the_exported_onnx(release: Release, tmp_path: Path) -> None:
    """export.py --prune 0.5 in every release."""
    pytest.importorskip("onnx")
    weights = tmp_path / "w.pt"
    weights.write_bytes(WEIGHTS.read_bytes())
    release.launch("export.py", "--weights", weights, "--imgsz", 64, "--include", "onnx", "--device", "cpu",
                   "--prune", 0.5, cwd=tmp_path)  # fmt: skip
    printed = run("-c", EXPORTED, weights.with_name("w_pruned.onnx"), cwd=tmp_path)
    assert float(printed.split()[-1]) == pytest.approx(0.5, abs=0.01)
    assert (tmp_path / "w_prune" / "report.json").is_file()


def test_detect_with_pruned_weights(release: Release, shapes: Path, tmp_path: Path) -> None:
    """detect.py --prune in every release; the report lies in the run folder."""
    image = next((shapes.parent / "shapes" / "images" / "val").iterdir())
    release.launch("detect.py", "--weights", WEIGHTS, "--source", image, "--imgsz", 320, "--device", "cpu",
                   "--prune", 0.3, "--project", tmp_path, "--name", "d", cwd=tmp_path)  # fmt: skip
    assert (tmp_path / "d" / "prune" / "report.json").is_file()


@pytest.mark.parametrize("script", ["segment/val.py", "segment/predict.py", "classify/val.py", "classify/predict.py"])
def test_segmenters_and_classifiers(clone: Release, others: Path, tmp_path: Path, script: str) -> None:
    """Their val.py and predict.py prune too."""
    task = script[:3]
    data = {"seg": others / "seg.yaml", "cls": others / "cls"}["seg" if task == "seg" else "cls"]
    where = ["--data", data] if "val" in script else ["--source", others / "images" / "val"]
    weights = others / ("seg.pt" if task == "seg" else "cls.pt")
    extra = ["--prune-baseline"] if "val" in script else []
    common = ["--imgsz", 64, "--device", "cpu", "--project", tmp_path, "--name", "x"]
    printed = clone.launch(script, "--weights", weights, *where, *common, "--prune", 0.4, *extra, cwd=tmp_path)
    assert (tmp_path / "x" / "prune" / "report.json").is_file()
    assert ("difference" in printed) == ("val" in script)
