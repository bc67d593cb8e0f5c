"""The k lowest over several tensors: by hand, then against a full sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.pruning import selection
from yolov5_prune_plugin.core.pruning.selection import counts_below
from yolov5_prune_plugin.errors import PruneError

FLOATS = st.one_of(st.sampled_from([0.0, 0.25, 1.0, 1.5, 2.0**-140, torch.inf]), st.floats(0, width=32))
TENSORS = st.lists(st.lists(FLOATS, max_size=20), min_size=1, max_size=5)


def count(tensors: list[torch.Tensor], k: int) -> list[int]:
    named = {f"t{i}": tensor for i, tensor in enumerate(tensors)}
    return list(counts_below(lambda: named.items(), k).values())


def by_sorting(lists: list[list[float]], k: int) -> list[int]:
    """All values in one list, sorted stably: equal ones in the order of the tensors."""
    lowest = sorted((value, index) for index, values in enumerate(lists) for value in values)[:k]
    return [sum(index == i for _, index in lowest) for i in range(len(lists))]


def test_four_scores_by_hand() -> None:
    assert count([torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0])], 3) == [1, 2]


def test_equal_scores_are_taken_in_the_order_of_the_names() -> None:
    assert count([torch.ones(2, 2), torch.zeros(1), torch.ones(3)], 6) == [4, 1, 1]


def test_minus_zero_is_zero() -> None:
    assert count([torch.tensor([-0.0, 1.0]), torch.tensor([0.0])], 2) == [1, 1]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("-inf"), -float("nan")])
def test_scores_that_do_not_compare_are_refused(bad: float) -> None:
    message = "^scores of 't1' are negative or NaN; a global comparison needs scores >= 0$"
    with pytest.raises(PruneError, match=message):
        count([torch.ones(2), torch.tensor([-0.0, bad])], 1)


@pytest.mark.parametrize("k", [-1, 5])
def test_a_count_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(PruneError, match=f"^count must be from 0 to 4, got {k}$"):
        count([torch.ones(4)], k)


@given(TENSORS, st.data())
def test_agrees_with_a_full_sort(lists: list[list[float]], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, sum(map(len, lists))))
    assert count([torch.tensor(values) for values in lists], k) == by_sorting(lists, k)


@given(st.integers(0, 1000), st.integers(1, 50), st.data())
def test_the_counts_add_up_where_ties_abound(seed: int, levels: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randint(0, levels, (n,), generator=generator).half() for n in (17, 1, 300)]
    k = data.draw(st.integers(0, 318))
    counts = count(tensors, k)
    assert sum(counts) == k
    assert counts == by_sorting([tensor.tolist() for tensor in tensors], k)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.rand(3, 33), torch.rand(100)]
    whole = count(tensors, 120)
    monkeypatch.setattr(selection, "_CHUNK", 7)
    assert count(tensors, 120) == whole
