"""k-means in one dimension, by hand and against exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.core.coding.test_packing import sparse
from yolov5_prune_plugin.core.coding.codebook import INITS, Histogram, by_filter
from yolov5_prune_plugin.errors import PruneError


@pytest.mark.parametrize("init", INITS)
def test_two_heaps(init: str) -> None:
    """-2 -1 | 4 6, and zeros that stay: centroids -1.5 and 5, error 4 * 0.25 + ... = 0.5 + 2."""
    weight = torch.tensor([[0, -2.0, 4], [-1, 0, 6]])
    shared = Histogram(weight).cluster(1, init)
    assert shared.weight.tolist() == [[0, -1.5, 5], [-1.5, 0, 5]]
    assert shared.error == pytest.approx(0.5 + 2)
    assert shared.energy == 4 + 1 + 16 + 36
    assert shared.index_bytes == pytest.approx(4 / 8 + 2 * 4 + 2 * 5 / 8)


@given(st.integers(1, 5), st.integers(0, 3))
def test_the_best_start(bits: int, seed: int) -> None:
    """What loses least of the three."""
    histogram = Histogram(sparse((30, 20), 0.5, 0, seed).double())
    errors = [histogram.cluster(bits, init, seed).error for init in INITS]
    assert histogram.cluster(bits, "best", seed).error == min(errors)


def test_values_count_as_often_as_they_come() -> None:
    """Nine 1 and one 2 beside 10: the mean of the lower heap is 1.1."""
    assert Histogram(torch.tensor([1.0] * 9 + [2, 10])).cluster(1).weight[0] == pytest.approx(1.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_errors_count_by_importance(dtype: torch.dtype) -> None:
    """1, 2 | 4 where 2 counts a hundred times as much as 1: the first centroid is 201 / 101."""
    weight = torch.tensor([[1.0], [2], [4]], dtype=dtype)
    shared = Histogram(weight, torch.tensor([1.0, 100, 100])).cluster(1)
    assert shared.weight.flatten().tolist() == pytest.approx([201 / 101, 201 / 101, 4], rel=1e-3)
    assert shared.error == pytest.approx((1 - 201 / 101) ** 2 + 100 * (2 - 201 / 101) ** 2, rel=0.01)
    assert shared.energy == 1 + 400 + 1600


def test_importance_of_filters() -> None:
    """One over the sum of squares; an empty filter counts as if it had a hundredth of the mean."""
    found = by_filter(torch.tensor([[0.0, 2], [12, 16], [0, 0]]))
    assert found is not None
    assert found.tolist() == pytest.approx([1 / 4, 1 / 400, 100 / (404 / 3)])
    assert by_filter(torch.zeros(3, 3)) is None
    assert by_filter(torch.ones(3)) is None
    assert by_filter(torch.zeros(0, 3)) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("init", INITS)
def test_types_agree(dtype: torch.dtype, init: str) -> None:
    """The path by bit patterns and the one by sorting give what double precision gives."""
    weight = sparse((40, 50), 0.5, 0).to(dtype)
    ours = Histogram(weight).cluster(3, init, seed=1)
    double = Histogram(weight.double()).cluster(3, init, seed=1)
    assert ours.weight.dtype == dtype
    assert torch.equal(ours.weight, double.weight.to(dtype))
    assert torch.equal(ours.weight == 0, weight == 0)
    assert len(ours.weight.unique()) == 9


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=9), st.sampled_from(INITS))
def test_between_the_best_partition_and_none(values: list[int], init: str) -> None:
    """Against all ways to cut the sorted values in two, the empty cut among them: Lloyd may stop at a local optimum,
    such as -12 | -2 -2 -1 1 22, but never above one cluster for all."""
    weight = torch.tensor(values, dtype=torch.float32)
    some = sorted(value for value in values if value)
    errors = [sum(np.var(part) * len(part) for part in (some[:i], some[i:]) if part) for i in range(len(some) + 1)]
    shared = Histogram(weight).cluster(1, init)
    assert torch.equal(shared.weight == 0, weight == 0) or 0 in shared.weight[weight != 0]
    assert min(errors) - 1e-4 * (1 + min(errors)) <= shared.error <= errors[0] * (1 + 1e-5) + 1e-5


@given(st.integers(1, 8), st.sampled_from(INITS), st.sampled_from([0, 0.5, 1]), st.integers(0, 3))
def test_more_bits_lose_less(bits: int, init: str, sparsity: float, seed: int) -> None:
    """Each survivor is at its nearest centroid, which is the mean of its members; sharing twice changes nothing."""
    weight = sparse((30, 20), sparsity, 0, seed).double()
    shared = Histogram(weight).cluster(bits, init, seed)
    book = shared.weight[shared.weight != 0].unique()
    assert len(book) <= 2**bits
    assert torch.equal(Histogram(shared.weight).cluster(bits, init).weight, shared.weight)
    if len(book) > 1:
        kept = weight[weight != 0]
        nearest = book[(kept[:, None] - book).abs().argmin(1)]
        assert torch.equal(nearest, shared.weight[weight != 0])
        for centroid in book:
            assert float(kept[nearest == centroid].mean()) == pytest.approx(float(centroid), abs=1e-9)


def test_one_bit_more_quarters_the_error() -> None:
    """High-rate theory: 6 dB a bit."""
    histogram = Histogram(sparse((300, 300), 0, 0).double())
    errors = [histogram.cluster(bits, "density").error for bits in (4, 5, 6)]
    for more, less in itertools.pairwise(errors) if hasattr(itertools, "pairwise") else zip(errors, errors[1:]):
        assert 3 < more / less < 5


def test_what_is_shared_already_stays() -> None:
    """A layer of 16 values keeps them at 4 bits."""
    weight = sparse((64, 64), 0.5, 16).half()
    shared = Histogram(weight).cluster(4)
    assert torch.equal(shared.weight, weight)
    assert shared.error == 0


def test_empty_and_broken_layers() -> None:
    assert torch.equal(Histogram(torch.zeros(3, 3).half()).cluster(4).weight, torch.zeros(3, 3).half())
    assert torch.equal(Histogram(torch.zeros(0, 3)).cluster(4).weight, torch.zeros(0, 3))
    for value in (float("nan"), float("inf")):
        with pytest.raises(PruneError, match="NaN or infinite weights"):
            Histogram(torch.tensor([1, value]))
    with pytest.raises(PruneError, match="called 'random'; there are linear, density"):
        Histogram(torch.arange(9.0)).cluster(1, "random")
