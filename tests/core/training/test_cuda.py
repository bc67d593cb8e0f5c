"""On a GPU, in the deterministic mode that train.py sets: what would be refused there, and what must come out alike."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from yolov5_prune_plugin.core.pruning.distribution import distribute
from yolov5_prune_plugin.core.pruning.importance import lamp
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Target
from yolov5_prune_plugin.core.training.dns import DnsRule
from yolov5_prune_plugin.core.training.gradual import Gradual, gradual_plan
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.core.training.shared_weights import SharedWeights
from yolov5_prune_plugin.core.training.thresholds import first_threshold

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_scores_and_thresholds_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 32, 3, 3, generator=generator)
    assert torch.allclose(lamp(weight.cuda()).cpu(), lamp(weight), rtol=1e-6)
    assert first_threshold(weight.abs().cuda(), 10_000) == first_threshold(weight.abs(), 10_000)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 12), nn.Flatten())
    return model.cuda()


def rule(kind: str, weights: dict[str, nn.Parameter], model: nn.Sequential) -> Rule:
    if kind == "gmp":
        targets = [Target("0.weight", model[0]), Target("2.weight", model[2])]  # type: ignore[arg-type]
        return Gradual(targets, lambda target, request: target.weight.detach().abs(), Request(0.8, "lamp"),
                       gradual_plan(0.0, 0.5, 1, 0.8))  # fmt: skip

    def drops(dense: dict[str, Tensor]) -> dict[str, int]:
        shapes = {name: weight.shape for name, weight in dense.items()}
        return distribute("lamp", shapes, lambda: [(name, weight.abs()) for name, weight in dense.items()], 0.8)

    return DnsRule([list(weights)], 0.0, 0.5, drops=drops, gamma=0.01)  # type: ignore[arg-type]


def trained(kind: str) -> list[Tensor]:
    """Forty steps with AMP, the third of which is skipped for an infinite gradient."""
    model = network()
    weights = {name: p for name, p in model.named_parameters() if p.dim() == 4}
    if kind == "tied":
        with torch.no_grad():
            for p in weights.values():
                p.copy_((p * 20).round() / 20)
    masked = (
        SharedWeights(weights, Rule(), dict.fromkeys(weights, 4))
        if kind == "tied"
        else Masked(weights, rule(kind, weights, model))
    )
    masked.prepare()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    masked.attach(optimizer, lambda: 40)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    generator = torch.Generator().manual_seed(1)
    for step in range(41):
        images = torch.randn(8, 3, 16, 16, generator=generator).cuda()
        labels = torch.randint(0, 16, (8,), generator=generator).cuda()
        with torch.autocast("cuda"):
            loss = functional.cross_entropy(model(images), labels)
        scaler.scale(loss * (torch.inf if step == 2 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert masked.step == 40
    masked.check()
    masked.detach()
    return [p.detach().clone() for p in weights.values()]


@pytest.mark.parametrize("kind", ["dns", "gmp", "tied"])
def test_a_training_with_amp_twice(kind: str) -> None:
    """Bit for bit the same, with exactly the zeros asked for."""
    once, again = trained(kind), trained(kind)
    for a, b in zip(once, again):
        assert torch.equal(a, b)
    total = sum(weight.numel() for weight in once)
    if kind != "tied":
        assert sum(int((weight == 0).sum()) for weight in once) == round(0.8 * total)


def test_importance_of_channels() -> None:
    """All kinds, and close to those of the CPU."""
    pytest.importorskip("torch_pruning")
    from tests.core.channels.networks import Plain
    from yolov5_prune_plugin.core.channels.groups import find_channels
    from yolov5_prune_plugin.core.channels.importance import IMPORTANCES, score_units

    torch.manual_seed(0)
    net, image = Plain().eval(), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    groups = find_channels(net, image).groups
    here = {kind: score_units(net, groups, kind, [image]) for kind in IMPORTANCES}
    net.cuda()
    for kind, scores in here.items():
        there = score_units(net, groups, kind, [image.cuda()])
        for name, values in scores.items():
            torch.testing.assert_close(there[name].cpu(), values, rtol=1e-2, atol=1e-4)
