"""Tuning towards the dense model's outputs: zeros stay, the distance falls, and nothing else is touched."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.core.outputs.networks import Classifier, Detector
from tests.core.second_order.test_reconstruct import random_mask
from yolov5_prune_plugin.core.outputs.objective import distance
from yolov5_prune_plugin.core.second_order.tune import Tuning, tune
from yolov5_prune_plugin.errors import PruneError

MODELS = {"detector": Detector, "segmenter": lambda: Detector(masks=2), "classifier": Classifier}
IMAGES = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def endless() -> Iterator[Tensor]:
    """The same eight images."""
    while True:
        yield IMAGES


def pruned(kind: str) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """A dense model, the same with half of its weights gone, and the masks."""
    dense = MODELS[kind]().eval().requires_grad_(False)
    model = copy.deepcopy(dense)
    masks = {n: random_mask(p.shape) for n, p in model.named_parameters() if p.dim() > 1}
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)
    return dense, model, masks


@pytest.mark.parametrize("kind", MODELS)
def test_the_distance_falls_and_zeros_stay(kind: str) -> None:
    """To less than half in a hundred steps, for outputs of any form; every mask is as it was."""
    dense, model, masks = pruned(kind)
    before = distance(dense(IMAGES), model(IMAGES)).item()
    losses: list[float] = []
    tune(model, dense, masks, endless(), Tuning(100, rate=0.02), losses.append)
    assert distance(dense(IMAGES), model(IMAGES)).item() < 0.5 * before
    assert len(losses) == 100
    assert losses[-1] < losses[0]
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()
        assert model.get_parameter(name)[mask].all()


def test_no_steps_change_nothing() -> None:
    """Not a bit; no image is asked for."""
    dense, model, masks = pruned("detector")
    before = copy.deepcopy(model.state_dict())
    tune(model, dense, masks, iter(()), Tuning(0))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_dense_model_is_not_touched() -> None:
    """Neither weights nor gradients."""
    dense, model, masks = pruned("detector")
    before = copy.deepcopy(dense.state_dict())
    tune(model, dense, masks, endless(), Tuning(3))
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in (*dense.parameters(), *model.parameters()))


def test_weights_without_a_mask_stay_and_biases_move() -> None:
    """An excluded layer keeps its weight."""
    dense, model, masks = pruned("detector")
    before = copy.deepcopy(model.state_dict())
    del masks["head.weight"]
    tune(model, dense, masks, endless(), Tuning(5))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert moved == {"body.0.weight", "body.0.bias", "head.bias"}


def test_norms_are_tuned_but_not_their_statistics() -> None:
    """BatchNorm stays in eval mode."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 4, 2, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 3)).eval()
    model = copy.deepcopy(dense)
    masks = {"0.weight": random_mask(model[0].weight.shape), "3.weight": torch.ones(3, 36).bool()}
    model[0].weight.data.mul_(masks["0.weight"])
    before = copy.deepcopy(model.state_dict())
    tune(model, dense, masks, endless(), Tuning(5))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert moved == {"0.weight", "1.weight", "1.bias", "3.weight", "3.bias"}


def test_an_empty_layer_and_an_equal_model_stay_as_they_are() -> None:
    """No weight left to move; and at distance 0 there is no gradient to follow beyond rounding."""
    dense, model, masks = pruned("detector")
    masks["head.weight"][:] = False
    model.head.weight.zero_()
    tune(model, dense, masks, endless(), Tuning(3))
    assert not model.head.weight.any()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_the_seed_decides_the_flips() -> None:
    """Two runs are alike to the bit."""
    results = []
    for seed in (1, 1, 2):
        dense, model, masks = pruned("detector")
        tune(model, dense, masks, endless(), Tuning(6, seed=seed))
        results.append(model.head.weight)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_filter_moves_in_proportion_to_its_size() -> None:
    """A model whose first layer is a thousand times smaller and its second as much larger is tuned the same way."""
    (dense, model, masks), scaled = pruned("classifier"), []
    for one in (dense, model):
        other = nn.Sequential(nn.Conv2d(3, 2, 2), nn.Identity(), nn.Flatten(), nn.Linear(18, 3)).eval()
        other.load_state_dict(one.state_dict())
        scaled.append(other.requires_grad_(False))
    small = [copy.deepcopy(one) for one in scaled]
    for one in small:
        one[0].weight.mul_(1e-3)
        one[0].bias.mul_(1e-3)
        one[3].weight.mul_(1e3)
    tune(scaled[1], scaled[0], masks, endless(), Tuning(10, features=0))
    tune(small[1], small[0], masks, endless(), Tuning(10, features=0))
    torch.testing.assert_close(small[1](IMAGES), scaled[1](IMAGES), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("where", ["dense", "pruned"])
def test_a_loss_that_is_not_finite_says_so(where: str) -> None:
    """With the step, and what would do."""
    dense, model, masks = pruned("detector")
    (dense if where == "dense" else model).body[0].bias[0] = float("nan")
    with pytest.raises(PruneError, match=r"^tuning: the loss is nan at step 1; a lower rate than 0.002, or none"):
        tune(model, dense, masks, endless(), Tuning(3))
