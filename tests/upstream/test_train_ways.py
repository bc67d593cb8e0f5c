"""train.py --gmp, --prune S, --keep-zeros; segment/ and classify/; and what is refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.upstream.conftest import WEIGHTS, Release, run
from tests.upstream.training import look, report, train_arguments

pytestmark = pytest.mark.upstream
RELEASE = Release("7.0.14")


def trained(training_shapes: Path, folder: Path, *flags: object, name: str = "t", weights: Path = WEIGHTS) -> list[int]:
    """Zeros by layer of last.pt after two epochs with these flags."""
    RELEASE.launch("train.py", *train_arguments(training_shapes, folder, name, weights), *flags, cwd=folder)
    return list(look(RELEASE, folder / name / "weights" / "last.pt", cwd=folder)["last.pt"]["model_layers"])


def test_prune_and_retrain_then_keep_zeros(training_shapes: Path, tmp_path: Path) -> None:
    """--prune keeps its mask through training; fine-tuning keeps the zeros with --keep-zeros and loses them without."""
    pruned = trained(
        training_shapes,
        tmp_path,
        "--prune",
        0.6,
        "--prune-distribution",
        "lamp",
        "--prune-exclude",
        "model.24.*",
        "--noautoanchor",
    )
    said = report(tmp_path / "t")
    assert said["masked_sparsity"] == pytest.approx(0.6, abs=0.001)
    assert pruned[-3:] == [0, 0, 0]
    last = tmp_path / "t" / "weights" / "last.pt"
    others = training_shapes.parent / "shapes" / "images"
    taught = ("--keep-zeros", "--distill-from", WEIGHTS, "--noautoanchor", "--distill-images", others)
    assert trained(training_shapes, tmp_path, *taught, name="kept", weights=last) == pruned
    assert "prune/distill" in (tmp_path / "kept" / "results.csv").read_text().splitlines()[0]
    assert sum(trained(training_shapes, tmp_path, name="lost", weights=last)) < sum(pruned) / 20


@pytest.mark.parametrize(
    "flags",
    [("--prune-method", "random", "--prune-seed", 3), ("--prune-iterations", 2, "--prune-distribution", "global"),
     ("--prune-granularity", "channel"),
     ("--prune-method", "obs", "--prune-calib", 4, "--prune-tune", 2, "--prune-iterations", 2)],
)  # fmt: skip
def test_ways_to_prune(training_shapes: Path, tmp_path: Path, flags: tuple[object, ...]) -> None:
    """Methods, rounds and grains of val.py."""
    layers = trained(training_shapes, tmp_path, "--prune", 0.5, *flags)
    said = report(tmp_path / "t")
    assert said["saved"]["last.pt"]["conv_zeros"] == sum(layers)
    assert said["masked_sparsity"] == pytest.approx(0.5, abs=0.02)
    if "--prune-iterations" in flags:
        first = said["history"][0]
        assert first["sparsity"] == pytest.approx(0.5, abs=0.001)  # the second round ends the first epoch


def test_amounts(training_shapes: Path, tmp_path: Path) -> None:
    """--prune-amounts, and N:M."""
    (tmp_path / "amounts.yaml").write_text("model.5.conv.weight: 0.25\nmodel.7.conv.weight: 0.75\n")
    layers = trained(training_shapes, tmp_path, "--prune-amounts", tmp_path / "amounts.yaml")
    assert [count for count in layers if count > 9] == [128 * 64 * 9 // 4, 256 * 128 * 9 * 3 // 4]
    layers = trained(training_shapes, tmp_path, "--prune", 0.5, "--prune-granularity", "2:4", name="n")
    assert layers[1] == 32 * 16 * 9 // 2


def test_segmentation(release: Release, polygons: Path, tmp_path: Path) -> None:
    """segment/train.py --dns, from nothing but an architecture."""
    if not release.has("segment/train.py") or release.name == "6.2.3":  # whose segment/train.py fails by itself
        pytest.skip("has no segment/train.py that works")
    place = release.folder or Path(find_spec("yolov5").origin).parent
    release.launch("segment/train.py", "--weights", "", "--cfg", place / "models/segment/yolov5n-seg.yaml", "--data",
                   polygons, "--imgsz", 64, "--batch-size", 8, "--epochs", 2, "--workers", 0, "--device", "cpu",
                   "--project", tmp_path, "--name", "t", "--gmp", "--gmp-sparsity", 0.6, cwd=tmp_path)  # fmt: skip
    zeros, weights = look(release, tmp_path / "t/weights/last.pt", cwd=tmp_path)["last.pt"]["model"]
    assert zeros / weights == pytest.approx(0.6, abs=0.001)
    assert "prune/sparsity" in (tmp_path / "t" / "results.csv").read_text().splitlines()[0]


CLASSIFIER = """
import sys
from importlib.util import find_spec
root = {folder!r} if {folder!r} != "None" else find_spec("yolov5").submodule_search_locations[0]
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply(root)
sys.path.insert(0, root)
import torch
if {folder!r} == "None":
    from yolov5.models.yolo import ClassificationModel, DetectionModel
else:
    from models.yolo import ClassificationModel, DetectionModel
detector = DetectionModel(root + "/models/yolov5n.yaml")
torch.save({{"model": ClassificationModel(model=detector, nc=2, cutoff=10), "ema": None}}, "classifier.pt")
"""


def test_classification(release: Release, crops: Path, tmp_path: Path) -> None:
    """classify/train.py --dns of a classifier; best.pt is of the frozen masks."""
    if not release.has("classify/train.py"):
        pytest.skip("has no classify/train.py")
    run("-c", CLASSIFIER.format(folder=str(release.folder)), cwd=tmp_path, path=release.python_path)
    release.launch("classify/train.py", "--model", tmp_path / "classifier.pt", "--data", crops, "--imgsz", 64,
                   "--batch-size", 4, "--epochs", 3, "--workers", 0, "--device", "cpu", "--project", tmp_path,
                   "--name", "t", "--dns", "--dns-sparsity", 0.6, cwd=tmp_path)  # fmt: skip
    found = look(release, *(tmp_path / "t/weights" / name for name in ("best.pt", "last.pt")), cwd=tmp_path)
    for name in ("best.pt", "last.pt"):
        zeros, weights = found[name]["model"]
        assert zeros / weights == pytest.approx(0.6, abs=0.001), name
    if release.name != "v6.2":  # whose classify/train.py writes none
        assert "prune/sparsity" in (tmp_path / "t" / "results.csv").read_text().splitlines()[0]


BAD = [  # what only shows once the script runs; the rest is in tests/methods/training/test_sparse_training.py
    (["--dns", "--dns-sparsity", "1"], "train.py: error: argument --dns-sparsity: sparsity must be a number above 0"),
    (["--dns", "--weights", "nowhere.pt"], "--weights nowhere.pt: no such file"),
    (["--dns", "--dns-c-rate", "model.99.*=1"], "--dns-c-rate model.99.*=1: no Conv2d weight matches 'model.99.*'"),
    (["--dns", "--dns-stop", "5000"], "masks would be frozen at step 5000, but the training has 4 optimizer steps"),
    (["--keep-zeros"], "--keep-zeros: only "),
    (["--dns", "--distill-from", str(WEIGHTS), "--data", "OTHERS"], "a teacher needs the same, in the same order"),
    (["--dns", "--freeze", "25"], "--dns: all of the Conv2d weights are frozen"),
]


@pytest.mark.parametrize(
    ("flags", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_input(training_shapes: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    """One line that names the flag, what was found and what would do; exit code 2."""
    if "OTHERS" in flags:  # the same images, with classes of other names
        content = {**yaml.safe_load(training_shapes.read_text()), "names": ["a", "b", "c", "d"]}
        (tmp_path / "others.yaml").write_text(yaml.safe_dump(content))
        flags = [*flags[:-1], str(tmp_path / "others.yaml")]
    arguments = [*train_arguments(training_shapes, tmp_path), "--noplots", *flags]
    printed = RELEASE.launch("train.py", *arguments, cwd=tmp_path, ok=False)
    assert message in printed.splitlines()[-1]


def test_a_checkpoint_without_a_model(training_shapes: Path, tmp_path: Path) -> None:
    """It is named."""
    import torch

    torch.save({"epoch": 1}, tmp_path / "empty.pt")
    arguments = train_arguments(training_shapes, tmp_path, weights=tmp_path / "empty.pt")
    printed = RELEASE.launch("train.py", *arguments, "--dns", cwd=tmp_path, ok=False)
    assert "empty.pt: is a checkpoint without a model (no entry 'model')" in printed.splitlines()[-1]


def test_more_ranks_than_gpus(training_shapes: Path, tmp_path: Path) -> None:
    """The number of both is said."""
    printed = RELEASE.launch("train.py", *train_arguments(training_shapes, tmp_path), "--dns", cwd=tmp_path, ok=False,
                             CUDA_VISIBLE_DEVICES="", RANK="1", LOCAL_RANK="1", WORLD_SIZE="2")  # fmt: skip
    assert "--dns: 2 processes, but this machine has 0 GPUs" in printed
