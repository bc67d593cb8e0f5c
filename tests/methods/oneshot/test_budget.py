"""--prune-budget without a val.py: its plan is asked by hand, and figures are sent that a reader can follow."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Callable

import pytest
from torch import nn

from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.errors import NoResultError, PruneError
from yolov5_prune_plugin.methods.oneshot.budget import BudgetOptions, BudgetRun, check_budget
from yolov5_prune_plugin.methods.oneshot.magnitude import Magnitude
from yolov5_prune_plugin.methods.oneshot.oneshot import OneShotRun, PruneOptions
from yolov5_prune_plugin.plugin_api.run import Evaluation, Run, Saved

Score = Callable[[float, int], float]


def save(model: Any, names: list[str], file: Path, facts: dict[str, Any]) -> Saved:
    file.write_text(f"{facts['requested_sparsity']:g}")
    return Saved(file, "unfused", 0.0, 1)


def searched(folder: Path, score: Score, points: float = 2, step: float = 0.1, name: str | None = None) -> BudgetRun:
    """Let a search run; ``score(amount, how often it was measured)`` is what a model of that amount gets."""
    arguments = argparse.Namespace(weights="a.pt", task="val")
    run = Run("val.py", "validate", arguments, argparse.Namespace(), True, save, folder, "map")
    options = PruneOptions(prune_save=folder / name if name else None)
    method = Magnitude()
    plugin = BudgetRun(run, BudgetOptions(points, step), OneShotRun(run, options, method, Request(0.0)))
    plan = plugin.measurements()
    what, counts = next(plan), {}
    try:
        while True:
            amount = 0.0
            if what.weights:
                amount = float(what.weights.read_text())
            elif what.changed:
                model = nn.Sequential(nn.Conv2d(10, 10, 1))
                plugin.model_loaded(model)
                amount = round(float((model[0].weight == 0).float().mean()), 2)
                assert what.folder == f"trials/{amount:g}"
            counts[amount] = counts.get(amount, 0) + 1
            value = score(amount, counts[amount])
            failed = "NMS gave up" if value < 0 else ""
            what = plan.send(Evaluation({"map50": 0.9, "map": value}, batch_size=8, failed=failed))
    except StopIteration:
        return plugin


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "budget.json").read_text(), parse_constant=pytest.fail)


def straight(amount: float, _: int) -> float:
    """A tenth costs one point: 0.5 dense, 0.48 at 0.2."""
    return 0.5 - 0.1 * amount


def test_the_sparsest_inside_is_saved_and_confirmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched(tmp_path, straight)
    found = content(tmp_path)
    assert [(t["kind"], t["amount"], t["inside"]) for t in found["trials"]] == [
        ("dense", 0, True), ("trial", 0.5, False), ("trial", 0.2, True), ("trial", 0.3, False),
        ("confirmation", 0.2, True)]  # fmt: skip
    assert (found["state"], found["figure"], found["monotone"]) == ("found", "map", True)
    assert found["floor"] == pytest.approx(0.48)
    assert (found["found"]["amount"], found["found"]["conv_sparsity"]) == (0.2, pytest.approx(0.2))
    assert (tmp_path / "model.pt").read_text() == "0.2"
    assert {"budget.csv", "budget.png", "report.json", "layers.csv"} <= {file.name for file in tmp_path.iterdir()}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["requested_sparsity"] == 0.2
    assert report["budget"]["found"] == found["found"]
    printed = capsys.readouterr().out
    assert "--prune 0.5: mAP50-95 0.4500 (-0.0500), outside; next is 0.2" in printed
    assert "--prune 0.3: mAP50-95 0.4700 (-0.0300), outside; no step is left between" in printed


def test_a_file_of_its_own_and_names_that_are_taken(tmp_path: Path) -> None:
    searched(tmp_path, straight, name="mine.pt")
    assert not (tmp_path / "model.pt").exists()
    for _ in range(3):
        searched(tmp_path, straight)
    assert {file.name for file in tmp_path.glob("*.pt")} == {"mine.pt", "model.pt", "model-2.pt", "model-3.pt"}


def test_what_does_not_stand_its_confirmation_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0.2 is outside once it was saved; 0.1 was not tried yet, and stands."""
    searched(tmp_path, lambda amount, times: 0.1 if (amount, times) == (0.2, 2) else straight(amount, times))
    trials = [(t["kind"], t["amount"]) for t in content(tmp_path)["trials"]]
    assert trials[-3:] == [("confirmation", 0.2), ("trial", 0.1), ("confirmation", 0.1)]
    assert (tmp_path / "model.pt").read_text() == "0.1"
    assert "outside; not kept" in capsys.readouterr().out


def test_one_that_was_left_behind_is_pruned_again(tmp_path: Path) -> None:
    """0.5 and then 0.7 are inside, and 0.7 does not stand; between them is 0.6, outside: 0.5 is made once more."""

    def score(amount: float, times: int) -> float:
        return 0.5 if amount in (0, 0.5) or (amount, times) == (0.7, 1) else 0.1

    searched(tmp_path, score)
    trials = [(t["kind"], t["amount"]) for t in content(tmp_path)["trials"]]
    assert trials == [("dense", 0), ("trial", 0.5), ("trial", 0.7), ("trial", 0.8), ("confirmation", 0.7),
                      ("trial", 0.6), ("trial", 0.5), ("confirmation", 0.5)]  # fmt: skip
    assert (tmp_path / "model.pt").read_text() == "0.5"


def test_figures_that_rise_again_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched(tmp_path, lambda amount, _: 0.52 if amount == 0.5 else 0.5 - 0.1 * max(0, amount - 0.5))
    assert content(tmp_path)["monotone"] is False
    assert "But bisection takes for granted that a sparser model is never better" in capsys.readouterr().out


def test_none_inside(tmp_path: Path) -> None:
    with pytest.raises(NoResultError, match=r"--prune-budget 2: even --prune 0.1 is outside, so nothing was saved"):
        searched(tmp_path, lambda amount, _: 0.1 if amount else 0.5)
    assert content(tmp_path)["state"] == "failed"
    assert not list(tmp_path.glob("*.pt"))


def test_nan_is_outside_and_null_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(NoResultError):
        searched(tmp_path, lambda amount, _: float("nan") if amount else 0.5)
    assert content(tmp_path)["trials"][1]["score"] is None


def test_a_dense_model_within_the_budget_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(PruneError, match=r"of the model as given is 0.0100, so any model is inside; give less than 1$"):
        searched(tmp_path, lambda amount, _: 0.01)


@pytest.mark.parametrize(("fails", "trials"), [(0.0, 0), (0.5, 1)])
def test_what_could_not_be_measured_ends_the_search(tmp_path: Path, fails: float, trials: int) -> None:
    with pytest.raises(NoResultError, match="--prune-budget 2: no measurement: NMS gave up"):
        searched(tmp_path, lambda amount, _: -1 if amount == fails else 0.5)
    assert (tmp_path / "budget.json").exists() == bool(trials)


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("val.py", "validate", argparse.Namespace(), argparse.Namespace(), True, save, tmp_path, "map")
    method = Magnitude()
    plugin = BudgetRun(run, BudgetOptions(2, 0.1), OneShotRun(run, PruneOptions(), method, Request(0.0)))
    plan = plugin.measurements()
    next(plan)
    plan.send(Evaluation({"map": 0.5}))
    plugin.model_loaded(nn.Sequential(nn.Conv2d(10, 10, 1)))
    plan.send(Evaluation({"map": 0.49}))
    with pytest.raises(SystemExit) as caught:
        plan.throw(KeyboardInterrupt())
    assert caught.value.code == 130
    assert content(tmp_path)["state"] == "interrupted"
    assert len(content(tmp_path)["trials"]) == 2
    assert "interrupted: what was measured stays in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "granularity", "figure", "says"),
    [
        ({}, "2:4", "map", "--prune-granularity 2:4: the pattern sets the sparsity"),
        ({"task": "speed"}, "weight", "map", "--task speed: it measures on one split"),
        ({"weights": ["a.pt", "b.pt"]}, "weight", "map", "--weights names 2"),
        ({}, "weight", "", "returns no figure"),
    ],
)
def test_what_does_not_go_with_it(arguments: dict[str, Any], granularity: str, figure: str, says: str) -> None:
    run = Run("val.py", "validate", argparse.Namespace(**arguments), argparse.Namespace(), True, save, None, figure)
    with pytest.raises(PruneError, match=f"^--prune-budget 2.*{says}"):
        check_budget(BudgetOptions(2), granularity, run)


def test_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PruneError, match="the search runs in one process, not in 2"):
        check_budget(BudgetOptions(2), "channel", Run("val.py", "validate", None, None, True, save, None, "map"))


def test_the_fewest_multiplications(tmp_path: Path) -> None:
    """A tenth of them costs a point, so two tenths fit; the model that is kept has no more than eight tenths left."""
    arguments = argparse.Namespace(weights="a.pt", task="val", imgsz=8)
    run = Run("val.py", "validate", arguments, argparse.Namespace(), True, save, tmp_path, "map")
    oneshot = OneShotRun(run, PruneOptions(), Magnitude(), Request(0.0))
    plugin = BudgetRun(run, BudgetOptions(2, 0.1, "flops"), oneshot)
    plan, tried = plugin.measurements(), []
    what = next(plan)
    try:
        while True:
            if what.changed:
                model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, 2, padding=1))
                plugin.model_loaded(model)
                assert plugin.pruned is not None
                tried.append((plugin.amount, plugin.pruned.sparsity.multiplication_sparsity))
            score = 0.48 if what.weights else straight(plugin.amount, 0)
            what = plan.send(Evaluation({"map50": 0.9, "map": score}, batch_size=8))
    except StopIteration:
        pass
    assert sorted(amount for amount, _ in tried)[0] == 0.2
    assert all(amount <= got < amount + 0.05 for amount, got in tried)
    found = content(tmp_path)["found"]
    assert found["amount"] == 0.2
    assert 0.2 <= found["multiplication_sparsity"] < 0.25


def test_flops_leave_no_distribution_to_choose(tmp_path: Path) -> None:
    run = Run("val.py", "validate", argparse.Namespace(task="val"), argparse.Namespace(prune_distribution="erk"), True)
    with pytest.raises(PruneError, match="leave out --prune-distribution"):
        check_budget(BudgetOptions(1, 0.1, "flops"), "weight", run)


def test_a_rise_that_no_measurement_could_tell_is_no_rise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0.003 more at 0.5 than at 0."""
    searched(tmp_path, lambda amount, _: 0.503 if amount == 0.5 else 0.5 - 0.1 * max(0, amount - 0.5))
    assert content(tmp_path)["monotone"] is True
    assert "But bisection" not in capsys.readouterr().out
