"""Schedules: numbers that can be checked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.training.schedule import Window, cubic, drawn, expected_updates, update_probability
from yolov5_prune_plugin.errors import PruneError


def test_cubic_by_hand() -> None:
    """Half way, 1 - (1/2)^3 = 7/8 of the final sparsity is there."""
    window = Window(10, 20)
    assert [cubic(step, window, 0.8) for step in (0, 10, 15, 20, 99)] == pytest.approx([0, 0, 0.7, 0.8, 0.8])
    assert cubic(15, window, 0.8, 0.4) == pytest.approx(0.4 + 0.4 * 7 / 8)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 0.99))
def test_cubic_never_falls(start: int, length: int, final: float) -> None:
    """And it stays between nothing and the final sparsity."""
    window = Window(start, start + length)
    values = [cubic(step, window, final) for step in range(start + length + 2)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, final)


def test_shares_and_steps() -> None:
    """Up to 1 it is a share of the training, above 1 a number of steps."""
    assert Window.of(0.05, 0.6, 200) == Window(10, 120)
    assert Window.of(30, 150, 200) == Window(30, 150)
    assert Window.of(0.1, 150, 200) == Window(20, 150)
    assert Window.of(0.05, 0.6, 1) == Window(0, 1)


@pytest.mark.parametrize(("start", "stop"), [(0.6, 0.6), (0.7, 0.6), (150, 0.5), (120, 110)])
def test_stop_before_start(start: float, stop: float) -> None:
    """It is refused."""
    with pytest.raises(PruneError, match="must stop changing after they start"):
        Window.of(start, stop, 200)


def test_stop_after_the_training() -> None:
    """It is refused, with the number of steps there are."""
    with pytest.raises(PruneError, match="frozen at step 300, but the training has 200 optimizer steps"):
        Window.of(0, 300, 200)


def test_windows_in_turn() -> None:
    """Ten steps for three groups: 3, 3 and 4."""
    assert Window(10, 20).split(3) == [Window(10, 13), Window(13, 16), Window(16, 20)]
    with pytest.raises(PruneError, match="3 groups of layers in turn need 3 steps, got 2"):
        Window(0, 2).split(3)


def test_update_probability_by_hand() -> None:
    """The authors' gamma 0.001 and power 1: a half after 1,000 steps."""
    assert [update_probability(step, 1e-3, 1) for step in (0, 1000, 3000)] == pytest.approx([1, 0.5, 0.25])
    assert update_probability(12345, 0, 1) == 1
    assert update_probability(3, 1, 2) == pytest.approx(1 / 16)


@pytest.mark.parametrize(("gamma", "power"), [(0, 1), (1e-3, 1), (1e-2, 2), (1e-2, 0.5), (1e-2, 0)])
def test_expected_updates(gamma: float, power: float) -> None:
    """They are the sum of the probabilities."""
    total = sum(update_probability(step, gamma, power) for step in range(5000))
    assert expected_updates(5000, gamma, power) == pytest.approx(total, rel=0.02)


def test_draws() -> None:
    """They repeat, differ by seed and step, and are spread evenly."""
    draws = [drawn(0, step) for step in range(2000)]
    assert draws == [drawn(0, step) for step in range(2000)]
    assert draws[:50] != [drawn(1, step) for step in range(50)]
    assert 0 <= min(draws) < 0.01
    assert 0.99 < max(draws) < 1
    assert sum(draws) / 2000 == pytest.approx(0.5, abs=0.02)
