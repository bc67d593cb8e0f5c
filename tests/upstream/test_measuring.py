"""What counts as a measurement in the real scripts, amounts by layer, and the search within a budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.processes import started
from tests.upstream.conftest import Release, run, val_arguments

pytestmark = pytest.mark.upstream

# seconds that pass with each look at the clock: the limit is passed with the 5th or 6th image of a batch of 8, and of a
# batch of 4 with the last, so that none is dropped
SECONDS = {"6.0.7": 2.2, "v6.0": 2.2, "v6.1": 2.2, "6.1.9": 0.12, "v6.2": 0.12}
SLOW = """
import os, sys, time
from yolov5_prune_plugin import hookimpl

class Clock:
    now = 0.0
    def time(self):
        self.now += float(os.environ["SECONDS"])
        return self.now
    def __getattr__(self, name):
        return getattr(time, name)

@hookimpl
def configure():
    for name in {"utils.general", "yolov5.utils.general"} & set(sys.modules):
        sys.modules[name].time = Clock()
"""
# an NMS that never gets anything done
STUCK = """
import sys
import torch
from yolov5_prune_plugin import hookimpl

def non_max_suppression(prediction, *args, **kwargs):
    print("WARNING: NMS time limit 0s exceeded")
    prediction = prediction[0] if isinstance(prediction, (list, tuple)) else prediction
    return [torch.zeros((0, 6))] * len(prediction)

@hookimpl
def configure():
    sys.modules["__main__"].non_max_suppression = non_max_suppression
"""
# so that a test sees the exit code
EXIT = """
import subprocess, sys
print("exit code", subprocess.run([sys.executable, "-m", "yolov5_prune_plugin", "run", *sys.argv[1:]]).returncode)
"""


def with_plugin(release: Release, code: str, folder: Path) -> Release:
    """The release with a plug-in installed beside it."""
    about = folder / "stranger-1.dist-info"
    about.mkdir(parents=True)
    (folder / "stranger.py").write_text(code)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[yolov5_prune]\nstranger = stranger\n")
    return replace(release, python_path=[*release.python_path, folder])


def report(folder: Path, name: str = "report.json") -> dict[str, Any]:
    return json.loads((folder / "val" / "prune" / name).read_text())


def test_dropped_images_are_no_measurement(release: Release, shapes: Path, tmp_path: Path) -> None:
    """In every release: repeated with half the batch, on the model as it is; the very figures and labels of a run with
    that batch and all the time in the world."""
    slow = with_plugin(release, SLOW, tmp_path / "site")
    printed = slow.launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3, "--save-txt", cwd=tmp_path,
                          SECONDS=str(SECONDS.get(release.name, 0.2)))  # fmt: skip
    assert printed.count("left out images in 2 batches; again with --batch-size 4") == 1
    assert printed.count("again with") == 1
    assert printed.count("Fusing layers") == 1
    plain = tmp_path / "plain"
    release.launch(
        "val.py", *val_arguments(shapes, plain), "--batch-size", 4, "--prune", 0.3, "--save-txt", cwd=tmp_path
    )
    found, expected = report(tmp_path), report(plain)
    assert (found["batch_size"], found["map"]) == (4, expected["map"])
    assert "failed" not in found
    labels = [{file.name: file.read_text() for file in (folder / "val" / "labels").iterdir()}
              for folder in (tmp_path, plain)]  # fmt: skip
    assert len(labels[0]) == 16
    assert labels[0] == labels[1]


def test_a_measurement_that_fails(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """Down to batches of one, dense and pruned; the report says so, and the exit code is 1."""
    stuck = with_plugin(clone, STUCK, tmp_path / "site")
    printed = run("-c", EXIT, clone.folder / "val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3,
                  "--prune-baseline", cwd=tmp_path, path=stuck.python_path)  # fmt: skip
    assert printed.endswith("exit code 1\n")
    assert "Traceback" not in printed
    assert printed.count("again with --batch-size") == 3
    assert "as given (not a measurement)" in printed
    found = report(tmp_path)
    assert found["failed"].startswith("pruned: upstream's NMS ran into its time limit")
    assert found["baseline"]["failed"].endswith("even of --batch-size 1; run it on a faster or idle machine")


def test_without_our_flags_nothing_is_watched(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """Upstream's own figures, and its own warning."""
    slow = with_plugin(clone, SLOW.replace("def configure", "def options"), tmp_path / "site")
    printed = slow.launch("val.py", *val_arguments(shapes, tmp_path), cwd=tmp_path, SECONDS="0.2")
    assert "again with" not in printed
    assert not (tmp_path / "val" / "prune").exists()


def test_amounts_of_a_run_give_the_same_run_again(release: Release, shapes: Path, tmp_path: Path) -> None:
    """--prune 0.3 by a global threshold, and then by its amounts.yaml, in every release."""
    release.launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3, "--prune-distribution", "global",
                   cwd=tmp_path)  # fmt: skip
    amounts = tmp_path / "val" / "prune" / "amounts.yaml"
    release.launch("val.py", *val_arguments(shapes, tmp_path / "again"), "--prune-amounts", amounts, cwd=tmp_path)
    first, again = report(tmp_path), report(tmp_path / "again")
    assert (again["distribution"], again["map"], again["conv_zeros"]) == ("amounts", first["map"], first["conv_zeros"])
    assert again["requested_sparsity"] == pytest.approx(0.3, abs=1e-4)
    assert len(again["amounts"]) == 60
    assert (tmp_path / "again" / "val" / "prune" / "amounts.yaml").read_text() == amounts.read_text()


def test_a_budget(release: Release, shapes: Path, tmp_path: Path) -> None:
    """In every release: dense, 0.5, 0.25, and the saved model once more: it is what was measured."""
    release.launch("val.py", *val_arguments(shapes, tmp_path), "--prune-budget", 20, "--prune-budget-step", 0.25,
                   "--prune-distribution", "global", "--prune-save", tmp_path / "p.pt", cwd=tmp_path)  # fmt: skip
    budget = report(tmp_path, "budget.json")
    dense, half, quarter, confirmed = budget["trials"]
    assert [(t["kind"], t["amount"], t["inside"]) for t in budget["trials"]] == [
        ("dense", 0, True), ("trial", 0.5, False), ("trial", 0.25, True), ("confirmation", 0.25, True)]  # fmt: skip
    assert dense["score"] > quarter["score"] >= budget["floor"] > half["score"]
    assert budget["floor"] == pytest.approx(dense["score"] - 0.2)
    assert confirmed["score"] == pytest.approx(quarter["score"], abs=1e-12)
    assert (budget["state"], budget["found"]["file"]) == ("found", str(tmp_path / "p.pt"))
    assert report(tmp_path)["map"] == confirmed["score"]
    assert report(tmp_path)["baseline"]["map"] == dense["score"]
    assert report(tmp_path)["saved"]["largest_difference"] == 0
    assert (tmp_path / "p.pt").is_file()
    assert (tmp_path / "val" / "prune" / "trials" / "0.25").is_dir()
    assert (tmp_path / "val" / "prune" / "budget.png").stat().st_size > 10_000


def test_a_budget_that_nothing_keeps(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """Exit code 1, and no model."""
    printed = run("-c", EXIT, clone.folder / "val.py", *val_arguments(shapes, tmp_path), "--prune-budget", 0.001,
                  "--prune-budget-step", 0.5, cwd=tmp_path)  # fmt: skip
    assert printed.endswith("exit code 1\n")
    assert "even --prune 0.5 is outside, so nothing was saved" in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(("script", "figure"), [("classify/val.py", "top1"), ("segment/val.py", "mask_map")])
def test_a_budget_of_other_tasks(clone: Release, others: Path, tmp_path: Path, script: str, figure: str) -> None:
    """A classifier that always says the same stays what it is; a segmenter that finds nothing has nothing to lose."""
    data, weights = (others / "cls", "cls.pt") if figure == "top1" else (others / "seg.yaml", "seg.pt")
    printed = clone.launch(script, "--weights", others / weights, "--data", data, "--imgsz", 64, "--device", "cpu",
                           "--project", tmp_path, "--name", "val", "--prune-budget", 20, "--prune-budget-step", 0.3,
                           cwd=tmp_path, ok=figure == "top1")  # fmt: skip
    if figure == "top1":
        budget = report(tmp_path, "budget.json")
        assert budget["figure"] == "top1"
        assert Path(budget["found"]["file"]) == tmp_path / "val" / "prune" / "model.pt"
        assert (tmp_path / "val" / "prune" / "model.pt").is_file()
        assert report(tmp_path)["images"] == sum(1 for file in (data / "val").rglob("*.*"))
    else:
        assert "mAP50-95(M) of the model as given is 0.0000, so any model is inside" in printed


def test_ctrl_c_during_a_budget(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """What was measured stays, without a traceback."""
    arguments = [*val_arguments(shapes, tmp_path), "--workers", 0, "--prune-budget", 5]
    command = ["-u", "-m", "yolov5_prune_plugin", "run", *map(str, [clone.folder / "val.py", *arguments])]
    printed = []
    with started([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
                 env={**os.environ, "YOLOV5_CONFIG_DIR": str(tmp_path)}) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            if "next is" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert "interrupted: what was measured stays in" in printed[-1]
    assert "Traceback" not in "".join(printed)
    budget = report(tmp_path, "budget.json")
    assert budget["state"] == "interrupted"
    assert len(budget["trials"]) >= 2
