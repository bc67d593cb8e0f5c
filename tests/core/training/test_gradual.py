"""Gradual pruning and rounds: which sparsity at which step, and what was pruned stays so."""

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.importance import magnitude
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Target, find_targets
from yolov5_prune_plugin.core.training.gradual import Gradual, gradual_plan, rounds
from yolov5_prune_plugin.core.training.masked import Masked


def score(target: Target, request: Request) -> torch.Tensor:
    """Magnitude."""
    return magnitude(target.weight)


def test_plan_by_hand() -> None:
    """Steps 10 to 20 of 40, every 5: 1 - (1 - 1/10)^3, 1 - (1 - 6/10)^3 and all of 0.8 at the last."""
    plan = gradual_plan(0.25, 0.5, 5, 0.8)(40)
    assert plan == pytest.approx({10: 0.8 * (1 - 0.9**3), 15: 0.8 * (1 - 0.4**3), 19: 0.8})
    assert len(gradual_plan(0, 1.0, None, 0.8)(1000)) == 101


def test_rounds_by_hand() -> None:
    """Three rounds to 0.875 halve what is left: 0.5, 0.75, 0.875, a third of the training apart."""
    first, plan = rounds(3, 0.875)
    assert first == pytest.approx(0.5)
    assert plan(30) == pytest.approx({9: 0.75, 19: 0.875})
    assert rounds(1, 0.3)[0] == 0.3
    assert rounds(1, 0.3)[1](30) == {}


@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_what_is_pruned_stays_so(net: nn.Module, distribution: str) -> None:
    """Masks only grow, the sparsity follows the plan, and weights under a mask are zero whatever the optimizer does."""
    targets = find_targets(net, Granularity("weight")).targets
    request = Request(0.8, distribution)
    rule = Gradual(targets, score, request, gradual_plan(0.1, 0.6, 3, 0.8))
    masked = Masked({t.name: t.module.weight for t in targets}, rule)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    masked.attach(optimizer, lambda: 30)
    before, sparsity = {name: mask.clone() for name, mask in masked.masks.items()}, []
    for _ in range(30):
        optimizer.zero_grad()
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        for target in targets:
            assert not target.weight[~masked.masks[target.name]].any()
            assert not (masked.masks[target.name] & ~before[target.name]).any()
            before[target.name] = masked.masks[target.name].clone()
        sparsity.append(masked.sparsity)
    assert masked.frozen
    assert sparsity[2] == 0 < sparsity[3]
    assert sparsity[17] == sparsity[29] == pytest.approx(0.8, abs=0.01)
    assert masked.take_counts() == (masked.weights - sum(masked.kept.values()), 0)


def test_first_round_comes_before_training(net: nn.Module) -> None:
    """``prepare`` prunes; the mask is there at the first forward pass."""
    targets = find_targets(net, Granularity("weight")).targets
    first, plan = rounds(1, 0.5)
    masked = Masked({t.name: t.module.weight for t in targets}, Gradual(targets, score, Request(0.5), plan, first))
    masked.prepare()
    assert masked.sparsity == pytest.approx(0.5, abs=0.01)
    assert all(int((t.weight == 0).sum()) == t.weight.numel() - masked.kept[t.name] for t in targets)


def test_a_method_that_moves_weights(net: nn.Module) -> None:
    """What it leaves zero is masked."""
    targets = find_targets(net, Granularity("weight")).targets

    def method(targets: tuple[Target, ...], request: Request) -> None:
        for target in targets:
            target.weight.data[0].zero_()

    rule = Gradual(targets[:2], None, Request(0.5), rounds(1, 0.5)[1], 0.5, method)
    masked = Masked({t.name: t.module.weight for t in targets}, rule)
    masked.prepare()
    assert not masked.masks[targets[0].name][0].any()
    assert masked.masks[targets[0].name][1:].all()
    assert masked.masks[targets[2].name].all()
