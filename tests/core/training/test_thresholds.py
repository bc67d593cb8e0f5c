"""Thresholds: the paper's from statistics, and the controller."""

import math

import pytest
import torch

from yolov5_prune_plugin.core.training.schedule import Window, cubic
from yolov5_prune_plugin.core.training.splice import splice
from yolov5_prune_plugin.core.training.thresholds import Hysteresis, first_threshold, gain, paper_threshold, steer
from yolov5_prune_plugin.errors import PruneError


def test_paper_by_hand() -> None:
    """|w| of 1, 2, 3 (zeros don't count): mu = 2, sigma = sqrt(2/3)."""
    magnitude = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0])
    assert paper_threshold(magnitude, 0) == pytest.approx(2)
    assert paper_threshold(magnitude, 1.5) == pytest.approx(2 + 1.5 * math.sqrt(2 / 3))
    assert paper_threshold(magnitude, -99) == 0
    assert paper_threshold(torch.zeros(3), 3) == 0


def test_first_threshold_by_hand() -> None:
    """A twentieth of the 40 that are to go: the second smallest."""
    assert first_threshold(torch.arange(1.0, 101.0), 40) == 2
    assert first_threshold(torch.tensor([0.0, 0.0, 0.5, 0.25]), 3) == 0.25  # never zero
    assert first_threshold(torch.zeros(4), 3) > 0


def test_steer_by_hand() -> None:
    """Odds of 1/3 wanted and of 1 there: a third of the threshold, or its root."""
    assert steer(1.0, 50, 75, 100, 1.0) == 0.5  # at most twofold
    assert steer(1.0, 50, 75, 100, 0.5) == pytest.approx(math.sqrt(1 / 3))
    assert steer(1.0, 75, 50, 100, 0.5) == pytest.approx(math.sqrt(3))
    assert steer(1.0, 50, 50, 100, 0.5) == 1
    assert steer(1.0, 0, 50, 100, 0.1) < 1 < steer(1.0, 100, 50, 100, 0.1)


def test_gain() -> None:
    """Twenty time constants in a training, never more than half of the way nor less than the slowest."""
    assert gain(1000, 0, 1) == pytest.approx(0.02)
    assert gain(10, 0, 1) == 0.5
    assert gain(10**7, 0, 1) == 5e-4


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
def test_the_controller_follows_its_schedule(sparsity: float) -> None:
    """On weights that don't move it stays near the schedule and ends within 2% of what is kept."""
    magnitude = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).abs()
    mask, window, off = torch.ones(20_000, dtype=torch.bool), Window(0, 400), []
    threshold = first_threshold(magnitude, round(sparsity * 20_000))
    for step in range(400):
        wanted = 20_000 * (1 - cubic(step, window, sparsity))
        if step:
            threshold = steer(threshold, int(mask.sum()), wanted, 20_000, gain(400, 0, 1))
        splice(mask, magnitude, 0.9 * threshold, 1.1 * threshold)
        off.append(abs(int(mask.sum()) - wanted) / 20_000)
    assert max(off[40:]) < 0.15
    assert int(mask.sum()) == pytest.approx(20_000 * (1 - sparsity), rel=0.02)


@pytest.mark.parametrize(("lower", "upper"), [(1.1, 1.2), (0.0, 1.1), (0.9, 0.95)])
def test_hysteresis_out_of_range(lower: float, upper: float) -> None:
    """It is refused."""
    with pytest.raises(PruneError, match="0 < lower <= 1 <= upper"):
        Hysteresis(lower, upper)
