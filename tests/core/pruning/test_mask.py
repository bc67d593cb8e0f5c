"""Which weights a mask drops: four by hand, then bit for bit those of torch.nn.utils.prune."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from yolov5_prune_plugin.core.pruning.mask import apply_mask, lowest_dropped
from yolov5_prune_plugin.errors import PruneError


def test_the_lowest_of_four_go() -> None:
    scores = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
    assert lowest_dropped(scores, 2).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize(("count", "kept"), [(0, 4), (4, 0)])
def test_none_and_all(count: int, kept: int) -> None:
    assert int(lowest_dropped(torch.rand(2, 2), count).sum()) == kept


@pytest.mark.parametrize("count", [-1, 5])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(PruneError, match=f"^count must be from 0 to 4, got {count}$"):
        lowest_dropped(torch.rand(4), count)


@pytest.mark.parametrize("size", [1, 7, 64, 640, 4_097, 40_000, 300_000])
@pytest.mark.parametrize("share", [0.001, 1 / 64, 0.1, 0.3, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("levels", [2, 30, None])
def test_ties_fall_as_in_l1_unstructured(size: int, share: float, levels: int | None) -> None:
    """topk has two ways, for k * 64 <= n and above; values rounded to fp16 or to few levels tie often."""
    generator = torch.Generator().manual_seed(size)
    weight = torch.randn(size, generator=generator)
    weight = weight.half().float() if levels is None else (weight * levels).round() / levels
    count = round(share * size)
    layer = nn.Module()
    layer.weight = nn.Parameter(weight.clone())
    prune.l1_unstructured(layer, "weight", count)
    assert torch.equal(lowest_dropped(weight.abs(), count), layer.weight_mask.bool())


def test_apply_mask_makes_the_zeros_of_torch() -> None:
    """A negative weight times 0 is -0.0, as upstream's own prune leaves it."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0, -3.0, 4.0]))
    apply_mask(weight, torch.tensor([False, False, True, True]))
    expected = torch.tensor([0.0, -0.0, -3.0, 4.0])
    assert torch.equal(weight.detach().view(torch.int32), expected.view(torch.int32))


def test_apply_mask_refuses_another_shape() -> None:
    """Even one that could be broadcast."""
    with pytest.raises(PruneError) as caught:
        apply_mask(torch.ones(2, 2), torch.ones(2, dtype=torch.bool))
    assert str(caught.value) == "mask of shape (2,) does not fit a weight of shape (2, 2)"
