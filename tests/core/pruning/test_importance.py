"""Scores of four weights by hand; LAMP against its definition."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.pruning.importance import lamp, magnitude, random

SCORES = st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=40)


def test_magnitude_is_the_absolute_value() -> None:
    weight = torch.tensor([[1.0, -3.0], [-0.0, 2.0]], requires_grad=True)
    scores = magnitude(weight)
    assert scores.tolist() == [[1, 3], [0, 2]]
    assert not scores.requires_grad
    assert weight.tolist() == [[1, -3], [0, 2]]


def test_random_depends_on_seed_and_name_only() -> None:
    ones, twos = torch.ones(3, 4), torch.full((3, 4), 2.0)
    first = random(ones, "a", 0)
    random(ones, "b", 0)
    assert torch.equal(first, random(twos, "a", 0))
    assert not torch.equal(first, random(ones, "b", 0))
    assert not torch.equal(first, random(ones, "a", 1))


def test_random_leaves_the_generator_of_the_run_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    random(torch.ones(10), "a", 0)
    assert torch.equal(torch.rand(3), expected)


def test_random_is_uniform_in_float32_even_for_half_weights() -> None:
    scores = random(torch.zeros(10_000, dtype=torch.float16), "a", -3)
    assert scores.dtype == torch.float32
    assert 0 <= scores.min() < 0.01
    assert 0.99 < scores.max() < 1
    assert abs(scores.mean() - 0.5) < 0.02


def test_lamp_of_four_scores_by_hand() -> None:
    """1/(1+4+9+16), 4/(4+9+16), 9/(9+16), 16/16, at the places of their scores."""
    assert torch.allclose(lamp(torch.tensor([[3.0, 1.0], [4.0, 2.0]])), torch.tensor([[9 / 25, 1 / 30], [1, 4 / 29]]))


def test_lamp_of_zeros_is_zero() -> None:
    assert lamp(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


@given(SCORES)
def test_lamp_agrees_with_a_double_loop(values: list[float]) -> None:
    """The paper's formula; equal scores stand in some order, so the results are compared as sorted lists."""
    ordered = sorted(values)
    expected = []
    for u, value in enumerate(ordered):
        tail = 0.0
        for v in range(u, len(ordered)):
            tail += ordered[v] ** 2
        expected.append(value**2 / tail if tail else 0.0)
    result = lamp(torch.tensor(values)).sort().values
    assert torch.allclose(result, torch.tensor(expected).sort().values, rtol=1e-5, atol=0)


@given(SCORES)
def test_lamp_keeps_the_order_of_a_layer(values: list[float]) -> None:
    order = torch.tensor(values).sort().indices
    result = lamp(torch.tensor(values))[order]
    distinct = torch.tensor(values)[order].diff() > 0
    assert bool((result.diff()[distinct] >= 0).all())
