"""train.py --slim in every release: channels go, the dense model teaches, and what is left trains on as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch_pruning")
from tests.upstream.conftest import WEIGHTS, Release, run
from tests.upstream.test_slim import counts
from tests.upstream.test_train_resume import copy_of, interfered
from tests.upstream.test_train_ways import CLASSIFIER
from tests.upstream.training import look, train_arguments

pytestmark = pytest.mark.upstream
RELEASE = Release("7.0.14")


def said(folder: Path) -> dict[str, Any]:
    """The report of the slimming in a run folder."""
    return dict(json.loads((folder / "prune" / "slim" / "report.json").read_text()))


def test_every_release(release: Release, training_shapes: Path, tmp_path: Path) -> None:
    """Channels, then weights, with soft targets and a penalty on scales; the checkpoint is trained further, as slim."""
    arguments = [*train_arguments(training_shapes, tmp_path), "--epochs", 1, "--noautoanchor"]
    printed = release.launch("train.py", *arguments, "--slim", 0.6, "--slim-no-repair", "--distill", "--bn-l1", 0.01,
                             "--dns", "--dns-sparsity", 0.5, "--dns-start", 0, "--dns-stop", 0.9,
                             cwd=tmp_path)  # fmt: skip
    place = tmp_path / "t"
    assert "yolov5-prune: distillation loss" in printed
    assert "BatchNorm scales below 0.01" in printed
    done = said(place)
    assert 0.5 < done["after"]["flops"] / done["before"]["flops"] <= 0.6
    found = look(release, place / "weights" / "best.pt", place / "weights" / "last.pt", cwd=tmp_path)
    number = str(int(done["after"]["params"]))
    for name in ("best.pt", "last.pt"):
        zeros, weights = found[name]["model"]
        assert zeros / weights == pytest.approx(0.5, abs=0.001)
    assert [one[0] for one in counts(release, place / "weights" / "last.pt", cwd=tmp_path)] == [number]
    header = (place / "results.csv").read_text().splitlines()[0]
    assert all(f"prune/{name}" in header for name in ("distill", "near_zero", "sparsity"))
    assert {file.name for file in (place / "prune").iterdir()} >= {"gammas.csv", "gammas.png", "report.json", "slim"}
    assert not (place / "prune" / "dense.safetensors").exists()
    assert len(list((place / "weights").iterdir())) == 2

    if release.name in ("6.1.9", "6.2.3"):  # that goes on from no checkpoint that it wrote itself, and one is enough
        return
    again = train_arguments(training_shapes, tmp_path, "u", place / "weights" / "last.pt")
    printed = release.launch("train.py", *again, "--epochs", 1, "--keep-zeros", cwd=tmp_path)
    taken, of = printed.split("Transferred ")[1].split()[0].split("/")
    assert taken == of
    assert [one[0] for one in counts(release, tmp_path / "u/weights/last.pt", cwd=tmp_path)] == [number]


@pytest.fixture(scope="session")
def killed(training_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that was killed in the middle of the second."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = [*train_arguments(training_shapes, folder), "--epochs", 3, "--noplots", "--noautoanchor"]
    interfered(4, *arguments, "--slim", "params=0.6", "--slim-calib", 8, "--distill", "--bn-l1", 0.01, cwd=folder,
               code=-9)  # fmt: skip
    return folder


def test_it_goes_on_as_slim_and_with_the_same_targets(killed: Path, tmp_path: Path) -> None:
    """Nothing is cut again; the history is that of three epochs."""
    last = copy_of(killed, tmp_path)
    dense = tmp_path / "t" / "prune" / "dense.safetensors"
    assert dense.stat().st_size > 4 * 1_700_000
    printed = RELEASE.launch("train.py", "--resume", last, cwd=tmp_path)
    assert "slim architecture kept" in printed
    assert printed.count("yolov5-prune: distillation loss") == 2
    assert "channels" not in printed
    rows = (tmp_path / "t" / "prune" / "gammas.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]
    (count,) = counts(RELEASE, last, cwd=tmp_path)
    assert count[0] == str(int(said(tmp_path / "t")["after"]["params"]))
    assert not dense.exists()


def test_another_target_is_refused(killed: Path, tmp_path: Path) -> None:
    """Both are named; so is a dense model that is missing."""
    last = copy_of(killed, tmp_path)

    def refused(*flags: object) -> str:
        return RELEASE.launch("train.py", "--resume", last, *flags, cwd=tmp_path, ok=False)

    assert "its run had --slim params=0.6, now it is flops=0.5" in refused("--slim", 0.5)
    assert "its run had --bn-l1 0.01, now it is 0.02" in refused("--bn-l1", 0.02)
    (tmp_path / "t" / "prune" / "dense.safetensors").unlink()
    assert "dense.safetensors, the dense model that --distill learns from, is missing" in refused()


def test_a_segmenter_and_a_classifier(others: Path, polygons: Path, crops: Path, tmp_path: Path) -> None:
    """Masks and classes stay; the dense model teaches both."""
    flags = ["--slim", 0.7, "--slim-no-repair", "--distill"]
    RELEASE.launch("segment/train.py", "--weights", others / "seg.pt", "--data", polygons, "--imgsz", 64,
                   "--batch-size", 8, "--epochs", 1, "--workers", 0, "--device", "cpu", "--project", tmp_path, "--name",
                   "s", "--noautoanchor", *flags, cwd=tmp_path)  # fmt: skip
    assert "prune/distill" in (tmp_path / "s" / "results.csv").read_text().splitlines()[0]
    run("-c", CLASSIFIER.format(folder="None"), cwd=tmp_path)
    RELEASE.launch("classify/train.py", "--model", tmp_path / "classifier.pt", "--data", crops, "--imgsz", 64,
                   "--batch-size", 4, "--epochs", 1, "--workers", 0, "--device", "cpu", "--project", tmp_path, "--name",
                   "c", *flags, "--slim-importance", "taylor", "--slim-calib", 4, cwd=tmp_path)  # fmt: skip
    for name in "sc":
        (count,) = counts(RELEASE, tmp_path / name / "weights" / "last.pt", cwd=tmp_path)
        assert count[0] == str(int(said(tmp_path / name)["after"]["params"]))


def test_an_unreachable_target(training_shapes: Path, tmp_path: Path) -> None:
    """One line that says what can be reached; other wrong flags are in tests/methods/test_slim.py."""
    arguments = [*train_arguments(training_shapes, tmp_path), "--noplots", "--slim", 0.01, "--slim-no-repair"]
    printed = RELEASE.launch("train.py", *arguments, cwd=tmp_path, ok=False)
    assert "--slim flops=0.01 cannot be reached: with every group at its floor 0." in printed.splitlines()[-1]


def test_no_images_to_calibrate_with(training_shapes: Path, tmp_path: Path) -> None:
    """yolov5-prune slim needs a train split; so does its --data."""
    text = training_shapes.read_text()
    (tmp_path / "d.yaml").write_text("\n".join(line for line in text.splitlines() if not line.startswith("train:")))
    printed = run("-m", "yolov5_prune_plugin", "slim", WEIGHTS, "--target", "flops=0.5", "-o", tmp_path / "s.pt",
                  "--data", tmp_path / "d.yaml", "--imgsz", 64, "--no-val", cwd=tmp_path, ok=False)  # fmt: skip
    assert "d.yaml" in printed.splitlines()[-1]
    assert "train" in printed.splitlines()[-1]
    assert not (tmp_path / "s.pt").exists()
