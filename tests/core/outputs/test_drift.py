"""How far outputs move, on the first images that a model is used on; nothing of it changes what the script gets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.core.outputs.drift import IMAGES, Drift


def images(number: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """A model, and one whose outputs are twice as large."""
    torch.manual_seed(0)
    before = nn.Conv2d(3, 2, 1, bias=False).eval()
    after = copy.deepcopy(before)
    after.weight.data *= 2
    return before, after


def test_it_is_the_distance_of_the_outputs(pair: tuple[nn.Module, nn.Module]) -> None:
    """(2y - y)^2 / var(y), for one batch."""
    before, after = pair
    drift = Drift(before, after)
    with torch.no_grad():
        after(images(3))
        y = before(images(3))
    assert drift.value == pytest.approx(float(y.square().mean() / y.var()))


def test_it_ends_after_a_few_images_and_leaves_the_model_alone(pair: tuple[nn.Module, nn.Module]) -> None:
    before, after = pair
    drift, x = Drift(before, after), images(IMAGES - 2)
    alone = copy.deepcopy(after)
    alone._forward_hooks.clear()
    with torch.no_grad():
        assert torch.equal(after(x), alone(x))
        first = drift.value
        after(images(9, seed=1))
        value = drift.value
        assert value not in (None, first)
        after(images(9, seed=2))
    assert drift.value == value
    assert not after._forward_hooks
    assert drift._before is None, "the copy is let go"


def test_zeros_to_warm_up_with_are_no_images(pair: tuple[nn.Module, nn.Module]) -> None:
    before, after = pair
    drift = Drift(before, after)
    with torch.no_grad():
        after(torch.zeros(1, 3, 4, 4))
        after(torch.full((1, 3, 4, 4), float("nan")))
    assert drift.value is None
