"""Evenly spaced weights in training: the straight-through estimator, an average that moves, and going on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.core.training.test_masked import NAMES, OPTIMIZERS, batches, network, of, train
from tests.core.training.test_shared_weights import sparse_network
from yolov5_prune_plugin.core.coding.codebook import Histogram
from yolov5_prune_plugin.core.coding.even import even_step
from yolov5_prune_plugin.core.training.average import bring_back, constrain_average
from yolov5_prune_plugin.core.training.even_weights import EvenWeights
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.errors import PruneError

BITS = 4


def spaced(model: nn.Module, kind: str = "sgd") -> tuple[EvenWeights, torch.optim.Optimizer]:
    """On an optimizer of its own."""
    parameters = of(model)
    masked = EvenWeights(parameters, Rule(), dict.fromkeys(parameters, BITS))
    masked.prepare({name: p.detach() != 0 for name, p in parameters.items()})
    optimizer = OPTIMIZERS[kind](model.parameters())
    masked.attach(optimizer, lambda: 100)
    return masked, optimizer


def rounded(weight: Tensor, step: float, mask: Tensor) -> Tensor:
    return (weight / step).round().clamp(-7, 7) * step * mask


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_is_the_straight_through_estimator(kind: str) -> None:
    """The forward pass has rounded weights; their gradient moves the weights before rounding."""
    model = sparse_network()
    _, optimizer = spaced(model, kind)
    train(model, optimizer, 12)
    other = sparse_network()
    dense, masks = dict(other.named_parameters()), {name: (p != 0).float() for name, p in of(other).items()}
    steps = {name: even_step(float(p.detach().abs().max()), BITS, torch.float16) for name, p in of(other).items()}
    plain = OPTIMIZERS[kind](list(dense.values()))
    for images, labels in batches(12):
        used = {name: p + (rounded(p, steps[name], masks[name]) - p).detach() if name in NAMES else p
                for name, p in dense.items()}  # fmt: skip
        plain.zero_grad()
        functional.cross_entropy(torch.func.functional_call(other, used, images), labels).backward()
        plain.step()
    for name, p in of(model).items():
        expected = rounded(dense[name].detach(), steps[name], masks[name])
        torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(p.detach(), rounded(of(sparse_network())[name].detach(), steps[name], masks[name]))


def test_an_average_moves_though_it_is_rounded() -> None:
    """By a ten-thousandth of the difference a step, far below the distance of two values, it comes from 1 to -1."""
    p = nn.Parameter(torch.tensor([[1.0, 3.5]]))
    model = nn.ParameterDict({"w": p})
    masked = EvenWeights({"w": p}, Rule(), {"w": BITS})
    masked.prepare({})
    average = copy.deepcopy(model)
    with torch.no_grad():
        p.copy_(torch.tensor([[-1.0, 3.5]]))
        for _ in range(4000):
            bring_back(masked, average)
            average["w"].mul_(0.999).add_(p, alpha=0.001)
            constrain_average(masked, average)
    assert average["w"].tolist() == [[-1, 3.5]]


def test_compress_takes_the_values_as_they_are() -> None:
    """In fp16, as best.pt is: at most 15 values with zero, evenly spaced, and nothing is lost."""
    model = sparse_network()
    masked, optimizer = spaced(model)
    train(model, optimizer, 6)
    for name, p in of(model).items():
        half = p.detach().half()
        assert torch.equal(half.float(), p.detach())
        assert torch.equal(Histogram(half).even(BITS).weight, half)
        assert len(half.unique()) <= 15
        assert not bool(half[~masked.masks[name]].any())
    found = masked.figures()
    assert 0 < found["values"] <= 28
    assert found["moved"] == found["moved_in_epoch"] > 0
    assert masked.figures()["moved_in_epoch"] == 0


def test_going_on_after_an_interruption() -> None:
    """With the weights before rounding and the average before rounding, it goes the same way."""
    model = sparse_network()
    masked, optimizer = spaced(model)
    average = copy.deepcopy(model)

    def averaged(state: EvenWeights, of_model: nn.Module) -> None:
        bring_back(state, average)
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), of_model.parameters()):
                mine.mul_(0.9).add_(theirs, alpha=0.1)
        constrain_average(state, average)

    train(model, optimizer, 4)
    averaged(masked, model)
    tensors, facts = copy.deepcopy(masked.state())
    again = network()
    again.load_state_dict({name: tensor.half().float() if name in NAMES else tensor
                           for name, tensor in model.state_dict().items()})  # fmt: skip
    fresh = OPTIMIZERS["sgd"](again.parameters())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other = EvenWeights(of(again), Rule(), dict.fromkeys(NAMES, BITS))
    other.load(tensors, facts)
    other.attach(fresh, lambda: 100)
    kept = copy.deepcopy(average)
    ends = []
    for state, one, stepper in ((masked, model, optimizer), (other, again, fresh)):
        average.load_state_dict(kept.state_dict())
        train(one, stepper, 3, 4)
        averaged(state, one)
        ends.append(
            {**copy.deepcopy(one.state_dict()), **{f"a.{k}": v for k, v in copy.deepcopy(average.state_dict()).items()}}
        )
    for name in ends[0]:
        assert torch.equal(ends[0][name], ends[1][name]), name
    with pytest.raises(PruneError, match=r"no step of 0\.weight"):
        other.load({name: t for name, t in tensors.items() if not name.startswith("step/")}, facts)


def test_dead_layers_and_weights_that_grow() -> None:
    """Zeros stay; a weight that outgrows the largest multiple is held there."""
    for weight, expected in ((torch.zeros(4), [0.0] * 4), (torch.tensor([0, 7.0, 1]), [0.0, 7.0, 3.0])):
        p = nn.Parameter(weight.clone())
        masked = EvenWeights({"w": p}, Rule(), {"w": BITS})
        masked.prepare({"w": weight != 0})
        optimizer = torch.optim.SGD([p], 1.0)
        masked.attach(optimizer, lambda: 1)
        p.grad = torch.full_like(p, -2)
        optimizer.step()
        assert p.tolist() == expected
