"""Which weights of a layer stay: what others can stand in for goes first, and patterns are kept to."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from yolov5_prune_plugin.core.pruning.granularity import nm_mask
from yolov5_prune_plugin.core.pruning.mask import lowest_dropped
from yolov5_prune_plugin.core.second_order.admm import Pattern, choose
from yolov5_prune_plugin.core.second_order.reconstruct import solve


def dropping(count: int) -> Pattern:
    """A pattern that drops so many of all in the end."""
    return lambda scores, share: lowest_dropped(scores.flatten(), round(share * count)).view(scores.shape)


def correlated(size: int, seed: int = 0) -> Tensor:
    """E[x x^T] of inputs that have much in common, [1, size, size]."""
    mixed = torch.randn(size, size // 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (mixed @ mixed.T + 0.1 * torch.eye(size, dtype=torch.float64)).unsqueeze(0)


def loss(weight: Tensor, mask: Tensor, hessian: Tensor) -> float:
    """Squared output error with the best weights on a mask."""
    moved = solve(weight[0], mask[0], hessian[0], 1e-6) - weight[0]
    return float((moved.double() @ hessian[0] * moved).sum())


def test_independent_inputs_are_chosen_by_size() -> None:
    """With a Hessian of 1, nothing can stand in for anything: the smallest of 3, -1, 2, 4 go."""
    mask = choose(torch.tensor([[[3.0, -1.0, 2.0, 4.0]]]), torch.eye(4).double()[None], torch.ones(1, 1), dropping(2))
    assert mask.tolist() == [[[True, False, False, True]]]


def test_an_input_counts_by_its_size() -> None:
    """The weight 1 of an input of size 10 matters more than the weight 3 of an input of size 1."""
    hessian = torch.diag(torch.tensor([100.0, 1.0], dtype=torch.float64))[None]
    mask = choose(torch.tensor([[[1.0, 3.0]]]), hessian, torch.ones(1, 1), dropping(1))
    assert mask.tolist() == [[[True, False]]]


def test_a_row_counts_by_what_its_output_matters() -> None:
    """Two of four weights go: both of the row that hardly matters, though they are larger."""
    weight = torch.tensor([[[2.0, 2.5], [1.0, 1.5]]])
    mask = choose(weight, torch.eye(2).double()[None], torch.tensor([[0.01, 1.0]]), dropping(2))
    assert mask.tolist() == [[[False, False], [True, True]]]


def test_better_than_scores_of_single_weights() -> None:
    """Over ten layers of correlated inputs half of the weights go, and less is lost than by w^2 H_kk."""
    ours = theirs = 0.0
    for seed in range(10):
        hessian = correlated(32, seed)
        weight = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(seed + 100))
        ours += loss(weight, choose(weight, hessian, torch.ones(1, 8), dropping(128), 1e-4), hessian)
        scores = weight.square() * hessian.diagonal(dim1=1, dim2=2)
        theirs += loss(weight, dropping(128)(scores, 1), hessian)
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("seed", range(5))
def test_near_the_best_of_all_masks(seed: int) -> None:
    """A row of 8 weights, half of which go: the loss is among the better quarter of those of the 70 masks."""
    hessian = correlated(8, seed)
    weight = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(seed + 100))
    masks = [torch.tensor([[[i in kept for i in range(8)]]]) for kept in combinations(range(8), 4)]
    losses = sorted(loss(weight, mask, hessian) for mask in masks)
    found = loss(weight, choose(weight, hessian, torch.ones(1, 1), dropping(4), 1e-4), hessian)
    assert found <= losses[len(losses) // 4]


def test_a_pattern_is_kept_to() -> None:
    """2:4 along the inputs, in every group."""
    weight = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    hessian = correlated(8).expand(2, 8, 8)
    mask = choose(
        weight, hessian, torch.ones(2, 3), lambda scores, share: nm_mask(scores.flatten(0, 1), 2, 4).view(2, 3, 8)
    )
    assert (mask.view(2, 3, 2, 4).sum(3) == 2).all()


def test_inputs_that_never_fire() -> None:
    """A Hessian of zeros: exactly as many go as shall, and nothing is NaN."""
    mask = choose(torch.randn(1, 2, 4), torch.zeros(1, 4, 4).double(), torch.zeros(1, 2), dropping(3))
    assert int((~mask).sum()) == 3
