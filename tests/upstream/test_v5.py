"""v5.0, the tree that most pruning forks started from: test.py, train.py without loggers, models/export.py."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.upstream.conftest import MIRROR, run
from yolov5_prune_plugin.commands.demo import lay_out

pytestmark = [pytest.mark.upstream, pytest.mark.skipif(not MIRROR, reason="needs $YOLOV5_MIRROR")]

MAKE = """
import sys; sys.path.insert(0, ".")
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply(".")
import torch
from models.yolo import Model
torch.manual_seed(0)
model = Model("models/yolov5s.yaml", nc=4); model.names = list("abcd")
torch.save({"model": model.half(), "epoch": -1, "optimizer": None, "training_results": None, "ema": None,
            "best_fitness": None}, "r.pt")
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a fresh model and the embedded images."""
    folder = tmp_path_factory.mktemp("v5") / "yolov5"
    subprocess.run(["git", "clone", "-q", "-b", "v5.0", str(MIRROR), str(folder)], check=True)
    run("-c", MAKE, cwd=folder)
    data = lay_out(folder / "shapes")
    content = yaml.safe_load(data.read_text())
    root = Path(content.pop("path"))
    for split in ("train", "val"):
        content[split] = str(root / content[split])  # v5.0 knows no path
    (folder / "shapes.yaml").write_text(yaml.safe_dump(content))
    return folder


COMMON = ("--weights", "r.pt", "--data", "shapes.yaml", "--img-size", 64, "--device", "cpu")


def test_patch_validate_and_revert(tree: Path) -> None:
    before = (tree / "test.py").read_bytes()
    said = run("-m", "yolov5_prune_plugin", "patch", ".", cwd=tree)
    assert "models/export.py" in said
    run("test.py", *COMMON, "--batch-size", 16, "--prune", 0.3, "--prune-baseline", "--prune-save", "saved.pt",
        "--project", "val", cwd=tree)  # fmt: skip
    report = json.loads((tree / "val" / "exp" / "prune" / "report.json").read_text())
    assert report["conv_sparsity"] == pytest.approx(0.3, abs=0.001)
    assert (tree / "saved.pt").is_file()
    run("-m", "yolov5_prune_plugin", "patch", ".", "--revert", cwd=tree)
    assert (tree / "test.py").read_bytes() == before


def test_train(tree: Path) -> None:
    run("-m", "yolov5_prune_plugin", "run", "train.py", *COMMON, "--batch-size", 16, "--epochs", 1, "--workers", 0,
        "--project", "train", "--gmp", "--gmp-sparsity", 0.5, cwd=tree)  # fmt: skip
    report = json.loads((tree / "train" / "exp" / "prune" / "report.json").read_text())
    assert report["saved"]["last.pt"]["conv_sparsity"] == pytest.approx(0.5, abs=0.001)


def test_detect(tree: Path) -> None:
    run("-m", "yolov5_prune_plugin", "run", "detect.py", "--weights", "r.pt", "--source", "data/images", "--img-size",
        64, "--device", "cpu", "--project", "detect", "--prune", 0.3, cwd=tree)  # fmt: skip
    assert (tree / "detect" / "exp" / "prune" / "report.json").is_file()
