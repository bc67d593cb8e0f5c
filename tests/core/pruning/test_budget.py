"""The search within a budget, by hand and against trying every amount."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.pruning.budget import Bisection, Trial
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.reporting.budget_report import plot_trials, trials_frame


def search(step: float, limit: float) -> tuple[float, list[float]]:
    """What is found if everything up to a limit is inside, and what was tried."""
    bisection, tried = Bisection(step), []
    while (amount := bisection.next) is not None:
        tried.append(amount)
        bisection.tell(amount, amount <= limit)
    return bisection.best, tried


@pytest.mark.parametrize(
    ("step", "limit", "best", "tried"),
    [
        (0.1, 0.35, 0.3, [0.5, 0.2, 0.3, 0.4]),
        (0.1, 0.05, 0, [0.5, 0.2, 0.1]),
        (0.1, 1, 0.9, [0.5, 0.7, 0.8, 0.9]),
        (0.25, 0.5, 0.5, [0.5, 0.75]),
        (0.3, 0.7, 0.6, [0.6, 0.9]),
        (0.5, 0.4, 0, [0.5]),
    ],
)
def test_by_hand(step: float, limit: float, best: float, tried: list[float]) -> None:
    assert search(step, limit) == (best, tried)


@given(st.sampled_from([0.01, 0.02, 0.03, 0.1, 0.05, 0.125, 0.5]), st.floats(0, 1))
def test_it_finds_what_trying_all_would(step: float, limit: float) -> None:
    all_of_them = [round(k * step, 9) for k in range(1, 101) if round(k * step, 9) < 1]
    best, tried = search(step, limit)
    assert best == max((amount for amount in all_of_them if amount <= limit), default=0)
    assert len(tried) <= len(all_of_them).bit_length()


def test_an_answer_may_be_taken_back() -> None:
    """0.5 is inside and 0.75 is not; then 0.5 turns out to be outside: what lies below it is tried."""
    bisection = Bisection(0.25)
    bisection.tell(0.5, True)
    bisection.tell(0.75, False)
    assert (bisection.best, bisection.next) == (0.5, None)
    bisection.tell(0.5, False)
    assert (bisection.best, bisection.next) == (0, 0.25)


@pytest.mark.parametrize("step", [0, -0.1, 0.6, float("nan")])
def test_the_step(step: float) -> None:
    with pytest.raises(PruneError, match=r"step must be in \(0, 0.5\], got"):
        Bisection(step)


def test_what_is_shown(tmp_path: Path) -> None:
    trials = [Trial(0, 0, 0.5, True, 8, 1.0, "dense"), Trial(0.5, 0.49, 0.25, False, 4, 2.0),
              Trial(0.25, 0.24, 0.49, True), Trial(0.25, 0.24, 0.49, True, kind="confirmation")]  # fmt: skip
    frame = trials_frame(trials)
    assert frame["amount"].tolist() == [0, 0.5, 0.25, 0.25]
    assert frame["inside"].tolist() == [True, False, True, True]
    plot_trials(trials, 0.48, "mAP50-95", "title", tmp_path / "budget.png")
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")
