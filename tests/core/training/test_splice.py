"""One mask update, with weights a reader can check."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.training.splice import splice, trim
from yolov5_prune_plugin.errors import PruneError


def bits(text: str) -> torch.Tensor:
    """``1101`` -> a mask."""
    return torch.tensor([bit == "1" for bit in text])


def test_by_hand() -> None:
    """Thresholds 1 and 2: up to 1 goes, above 2 comes back, between them stays as it was."""
    mask, weights = bits("110011"), torch.tensor([0.5, 1.5, 1.5, 2.5, 1.0, 2.0])
    kept, spliced = splice(mask, weights, 1.0, 2.0).tolist()
    assert mask.tolist() == bits("010101").tolist()  # the first and the fifth went, the fourth came back
    assert (kept, spliced) == (3, 1)


def test_equal_thresholds_are_plain_pruning() -> None:
    """Without a band between them the mask depends on the weights only."""
    for start in ("000", "111"):
        mask = bits(start)
        splice(mask, torch.tensor([0.1, 0.2, 0.3]), 0.2, 0.2)
        assert mask.tolist() == bits("001").tolist()


def test_zero_thresholds_drop_zeros_only() -> None:
    """What is exactly zero goes."""
    mask = bits("111")
    splice(mask, torch.tensor([0.0, 1e-30, 1.0]), 0.0, 0.0)
    assert mask.tolist() == bits("011").tolist()


@pytest.mark.parametrize(("lower", "upper"), [(2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_thresholds_out_of_order(lower: float, upper: float) -> None:
    """They are refused."""
    with pytest.raises(PruneError, match="0 <= lower <= upper"):
        splice(bits("11"), torch.tensor([1.0, 2.0]), lower, upper)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 4)), min_size=1), st.floats(0, 2), st.floats(0, 2))
def test_rule(entries: list[tuple[bool, float]], lower: float, band: float) -> None:
    """Every entry follows the three cases of the paper, and the counts add up."""
    mask = torch.tensor([kept for kept, _ in entries])
    weights = torch.tensor([weight for _, weight in entries], dtype=torch.float64)
    before = mask.tolist()
    kept, spliced = splice(mask, weights, lower, lower + band).tolist()
    expected = [False if w <= lower else True if w > lower + band else old for old, w in zip(before, weights.tolist())]
    assert mask.tolist() == expected
    assert kept == sum(expected)
    assert spliced == sum(new and not old for old, new in zip(before, expected))


def test_trim_by_hand() -> None:
    """Too many kept: the smallest go. Too few: the largest dropped ones come back."""
    weights = torch.tensor([0.1, 0.4, 0.2, 0.3])
    mask = bits("1110")
    assert trim(mask, weights, 2).tolist() == [2, 0]
    assert mask.tolist() == bits("0110").tolist()
    assert trim(mask, weights, 3).tolist() == [3, 1]
    assert mask.tolist() == bits("0111").tolist()
    assert trim(mask, weights, 3).tolist() == [3, 0]
    with pytest.raises(PruneError, match="kept must be from 0 to 4, got 5"):
        trim(mask, weights, 5)
