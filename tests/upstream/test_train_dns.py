"""train.py --dns in every release: ordinary checkpoints with exact zeros, and figures where upstream logs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.upstream.conftest import WEIGHTS, Release, run
from tests.upstream.training import drive, look, report, train_arguments

pytestmark = pytest.mark.upstream


def columns(file: Path) -> list[dict[str, float]]:
    """The rows of a results.csv."""
    with open(file) as stream:
        rows = csv.reader(stream)
        header = [cell.strip() for cell in next(rows)]
        return [{name: float(cell) for name, cell in zip(header, row)} for row in rows]


def test_every_release(release: Release, training_shapes: Path, tmp_path: Path) -> None:
    """Two epochs to 70%: what was reported is in the files, and the release measures them without our flags."""
    printed = release.launch(
        "train.py", *train_arguments(training_shapes, tmp_path), "--dns", "--dns-sparsity", 0.7, cwd=tmp_path
    )
    place = tmp_path / "t"
    assert "yolov5-prune: epoch 1/1, step 4: 70.00% of 1,759,744 weights zero" in printed
    found = look(release, place / "weights" / "best.pt", place / "weights" / "last.pt", cwd=tmp_path)
    said = report(place)
    for name in ("best.pt", "last.pt"):
        zeros, weights = found[name]["model"]
        assert said["saved"][name]["conv_zeros"] == zeros
        assert zeros / weights == pytest.approx(0.7, abs=0.0005)
        assert not found[name]["optimizer"]
    assert said["frozen"]
    rows = columns(place / "results.csv")
    assert [row["prune/sparsity"] for row in rows] == pytest.approx([h["sparsity"] for h in said["history"]], rel=1e-4)
    assert rows[0]["prune/pruned"] > 1_000_000
    assert len(list((place / "weights").iterdir())) == 2  # no side-car is left
    assert {"history.csv", "history.png", "layers.csv", "layers.png", "report.json"} == {
        file.name for file in (place / "prune").iterdir()
    }
    if release.name != "6.2.3":  # its val.py is slow to start; one old wheel is enough
        release.launch("val.py", "--weights", place / "weights" / "best.pt", "--data", training_shapes, "--imgsz", 64,
                       "--device", "cpu", "--project", tmp_path, "--name", "v", cwd=tmp_path)  # fmt: skip


LONG_AVERAGE = """
import yolov5.utils.torch_utils as theirs
make = theirs.ModelEMA.__init__
theirs.ModelEMA.__init__ = lambda self, model: make(self, model, updates=20000)
save = torch.save
def keep(content, file, *args, **kwargs):
    save(content, file, *args, **kwargs)
    if isinstance(content, dict) and "ema" in content and content["ema"] is not None:
        save(content, "raw.pt")
torch.save = keep
"""


def test_a_long_average_has_the_zeros(training_shapes: Path, tmp_path: Path) -> None:
    """With ema.updates at 20,000 the average hardly moves: zeros stand in it and in the model all the same."""
    drive(
        LONG_AVERAGE,
        "yolov5.train",
        *train_arguments(training_shapes, tmp_path),
        "--dns",
        "--dns-sparsity",
        0.7,
        cwd=tmp_path,
    )
    raw = look(Release("7.0.14"), tmp_path / "raw.pt", cwd=tmp_path)["raw.pt"]
    left = look(Release("7.0.14"), tmp_path / "t" / "weights" / "last.pt", cwd=tmp_path)["last.pt"]
    assert raw["optimizer"]
    assert raw["ema_layers"] == raw["model_layers"] == left["model_layers"]
    assert raw["ema"][0] / raw["ema"][1] == pytest.approx(0.7, abs=0.0005)


def test_best_is_of_the_frozen_masks(training_shapes: Path, tmp_path: Path) -> None:
    """The first epochs are better by far, but best.pt is never one of theirs."""
    arguments = [*train_arguments(training_shapes, tmp_path), "--epochs", 4, "--patience", 1]
    release = Release("7.0.14")
    release.launch("train.py", *arguments, "--dns", "--dns-sparsity", 0.9, "--dns-start", 0.5, "--dns-stop", 0.75,
                   cwd=tmp_path)  # fmt: skip
    rows = columns(tmp_path / "t" / "results.csv")
    assert rows[0]["metrics/mAP_0.5"] > rows[-1]["metrics/mAP_0.5"]
    best = look(release, tmp_path / "t" / "weights" / "best.pt", cwd=tmp_path)["best.pt"]["model"]
    assert best[0] / best[1] == pytest.approx(0.9, abs=0.001)


def test_the_papers_mode_in_groups(training_shapes: Path, tmp_path: Path) -> None:
    """c_rates by glob, and the backbone before the rest."""
    release = Release("7.0.14")
    release.launch("train.py", *train_arguments(training_shapes, tmp_path), "--dns", "--dns-c-rate", 0.5,
                   "model.24.*=-9", "--dns-groups", "model.?.*", "*", "--dns-start", 0, "--dns-stop", 1,
                   "--dns-hysteresis", 0.8, 1.2, cwd=tmp_path)  # fmt: skip
    layers = look(release, tmp_path / "t" / "weights" / "last.pt", cwd=tmp_path)["last.pt"]["model_layers"]
    assert layers[-3:] == [0, 0, 0]
    assert all(layers[:-3])
    said = report(tmp_path / "t")
    assert 0.3 < said["masked_sparsity"] < 0.9
    assert said["c_rate"] == ["0.5", "model.24.*=-9"]


def test_frozen_layers_are_left_alone(training_shapes: Path, tmp_path: Path) -> None:
    """--freeze 10: the backbone keeps its weights, the others are at 70%; --image-weights works with it."""
    release = Release("7.0.14")
    release.launch("train.py", *train_arguments(training_shapes, tmp_path), "--freeze", 10, "--image-weights", "--dns",
                   "--dns-sparsity", 0.7, cwd=tmp_path)  # fmt: skip
    said = report(tmp_path / "t")
    assert len(said["skipped"]) == 33
    assert set(said["skipped"].values()) == {"frozen"}
    assert said["masked_sparsity"] == pytest.approx(0.7, abs=0.001)
    before = look(release, WEIGHTS, cwd=tmp_path)[WEIGHTS.name]["model_layers"]
    after = look(release, tmp_path / "t" / "weights" / "last.pt", cwd=tmp_path)["last.pt"]["model_layers"]
    assert before[:33] == after[:33]


def test_evolve(training_shapes: Path, tmp_path: Path) -> None:
    """Two generations, each with masks of its own; --evolve saves no model."""
    release = Release("7.0.14")
    printed = release.launch("train.py", *train_arguments(training_shapes, tmp_path, "e"), "--epochs", 1,
                             "--evolve", 2, "--dns", "--dns-sparsity", 0.7, cwd=tmp_path)  # fmt: skip
    assert printed.count("yolov5-prune: epoch 0/0, step 2: 70.00%") == 2
    assert (tmp_path / "e" / "evolve.csv").is_file()


def test_patched_clone(clone: Release, training_shapes: Path, tmp_path: Path) -> None:
    """The activation line does the same as the launcher; a fork's --seams reach it too."""
    import shutil

    folder = tmp_path / "patched"
    shutil.copytree(clone.folder, folder)
    run("-m", "yolov5_prune_plugin", "patch", folder, cwd=tmp_path)
    printed = run(
        folder / "train.py", *train_arguments(training_shapes, tmp_path), "--epochs", 1, "--gmp", cwd=tmp_path
    )
    assert "yolov5-prune: last.pt: 80.00% of 1,759,744 conv weights zero" in printed
