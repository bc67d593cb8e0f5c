"""Blocks, channels and N:M in training: masks have the pattern after every step, and the amount in the end."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity, nm_mask
from yolov5_prune_plugin.core.pruning.importance import magnitude
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Target, find_targets
from yolov5_prune_plugin.core.training.average import bring_back, constrain_average
from yolov5_prune_plugin.core.training.dns import DnsRule
from yolov5_prune_plugin.core.training.gradual import Gradual, gradual_plan
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule

GRAINS = ("2x1", "3x1", "channel", "2:4")
STEPS = 40


def network() -> nn.Sequential:
    """8 filters, and 6 in two groups: blocks of three, or of two and one, in each."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.SiLU(), nn.Conv2d(8, 6, 3, groups=2))


def dns(targets: tuple[Target, ...], grain: Granularity) -> Rule:
    """Half of the units of each layer."""
    lost = {t.name: grain.units(t.weight, t.groups) // 2 for t in targets}
    return DnsRule([[t.name for t in targets]], 0.0, 0.8, drops=None if grain.m else lambda weights: lost, gamma=0.01,
                   grain=grain, channel_groups={t.name: t.groups for t in targets})  # fmt: skip


def gmp(targets: tuple[Target, ...], grain: Granularity) -> Rule:
    """The same, by magnitude."""
    request = Request(0.5, granularity=grain)
    return Gradual(targets, lambda t, request: magnitude(t.weight), request, gradual_plan(0.0, 0.8, 3, 0.5))


def has_pattern(mask: Tensor, groups: int, grain: Granularity) -> bool:
    """Whether whole units are kept or gone; of N:M, whether every group keeps the same number, N or more."""
    if grain.m:
        counts = mask.movedim(1, -1).reshape(-1, grain.m).sum(1)
        return len(set(counts.tolist())) == 1 and int(counts[0]) >= grain.n
    units = grain.kept_units(mask, groups)
    return torch.equal(grain.to_weights(units, mask, groups), mask)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    generator = torch.Generator().manual_seed(number)
    model(torch.randn(2, 4, 8, 8, generator=generator)).square().sub(0.3).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("way", [dns, gmp])
@pytest.mark.parametrize("text", GRAINS)
def test_the_pattern_is_there_after_every_step(text: str, way: type) -> None:
    """In masks, weights, and an average of them that follows what comes back; in the end half of the units are left."""
    model, grain = network(), Granularity.parse(text)
    targets = find_targets(model, grain).targets
    assert len(targets) == 2
    masked = Masked({t.name: t.module.weight for t in targets}, way(targets, grain))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    average = copy.deepcopy(model)
    masked.prepare()
    masked.attach(optimizer, lambda: STEPS)
    seen = set()
    for number in range(STEPS):
        step(model, optimizer, number)
        bring_back(masked, average)
        with torch.no_grad():
            for mean, p in zip(average.parameters(), model.parameters()):
                mean.lerp_(p, 0.1)
        constrain_average(masked, average)
        for target in targets:
            mask = masked.masks[target.name]
            assert has_pattern(mask, target.groups, grain)
            assert int(mask.sum()) == masked.kept[target.name]
            assert not target.weight[~mask].any()
            assert not average.get_parameter(target.name)[~mask].any()
            seen.add(int(mask.sum()))
    assert masked.frozen
    assert len(seen) > 2  # it did not all happen at once
    for target in targets:
        kept = grain.kept_units(masked.masks[target.name], target.groups)
        assert int(kept.sum()) == (kept.numel() + 1) // 2
        assert int(masked.masks[target.name].sum()) == masked.kept[target.name]


@pytest.mark.parametrize("text", GRAINS)
def test_whole_units_come_back(text: str) -> None:
    """What was dropped, and grows in the dense weights, is spliced in with all of its unit."""
    model, grain = network(), Granularity.parse(text)
    targets = find_targets(model, grain).targets
    masked = Masked({t.name: t.module.weight for t in targets}, dns(targets, grain))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    masked.attach(optimizer, lambda: STEPS)
    number = 0
    while bool(masked.masks["0.weight"].all()):
        step(model, optimizer, number)
        number += 1
    dropped = ~masked.masks["0.weight"]
    masked.take_counts()
    masked.dense["0.weight"][dropped] *= 1000
    step(model, optimizer, number)
    step(model, optimizer, number + 1)
    back = dropped & masked.masks["0.weight"]
    assert int(back.sum()) > 0
    assert has_pattern(masked.masks["0.weight"], 1, grain)
    assert masked.take_counts()[1] >= int(back.sum())


@pytest.mark.parametrize("way", [dns, gmp])
@pytest.mark.parametrize("text", GRAINS)
def test_an_interrupted_training_goes_on_alike(text: str, way: type) -> None:
    """State after step 17, loaded into a fresh start: the same masks and weights at the end."""
    ends = []
    for stop in (None, 17):
        model, grain = network(), Granularity.parse(text)
        targets = find_targets(model, grain).targets
        masked = Masked({t.name: t.module.weight for t in targets}, way(targets, grain))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        masked.attach(optimizer, lambda: STEPS)
        for number in range(STEPS):
            if number == stop:
                state, weights = masked.state(), copy.deepcopy(model.state_dict())
                masked.detach()
                model = network()
                model.load_state_dict(weights)
                targets = find_targets(model, grain).targets
                masked = Masked({t.name: t.module.weight for t in targets}, way(targets, grain))
                masked.load(*state)
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
                masked.attach(optimizer, lambda: STEPS)
            step(model, optimizer, number)
        ends.append((dict(masked.masks), copy.deepcopy(model.state_dict())))
    for name in ends[0][0]:
        assert torch.equal(ends[0][0][name], ends[1][0][name])
    for name, tensor in ends[0][1].items():
        assert torch.equal(tensor, ends[1][1][name])


def test_amounts_by_layer_grow_together() -> None:
    """A quarter and three quarters in the end; half of each when half of the way is gone; kept over a resume."""
    model, grain = network(), Granularity.parse("2x1")
    selection = find_targets(model, grain)
    request = Request(0.0, granularity=grain, amounts={"0.weight": 0.25, "2.weight": 0.75}).fitted(selection)

    def rule(request: Request) -> Gradual:
        return Gradual(
            selection.targets, lambda t, _: magnitude(t.weight), request, lambda total: {1: final / 2, 3: final}
        )

    final = request.sparsity
    masked = Masked({t.name: t.module.weight for t in selection.targets}, rule(request))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    masked.attach(optimizer, lambda: 4)
    shares = []
    for number in range(4):
        step(model, optimizer, number)
        shares.append([1 - float(grain.kept_units(masked.masks[t.name], t.groups).float().mean())
                       for t in selection.targets])  # fmt: skip
    assert shares[0] == [0, 0]
    assert shares[1] == pytest.approx([0.125, 0.375], abs=0.02)
    assert shares[3] == pytest.approx([0.25, 0.75], abs=0.02)
    again = rule(Request(0.0, granularity=grain))
    again.load(masked.rule.state())
    assert again.request.amounts == request.amounts
    assert again.request.sparsity == request.sparsity


def test_a_pattern_goes_by_way_of_wider_ones() -> None:
    """2:4 by 3:4, 1:4 by 3:4 and 2:4."""
    assert [str(Granularity.parse("2:4").on_the_way(share)) for share in (0, 0.4, 0.8, 1)] == [
        "4:4",
        "3:4",
        "2:4",
        "2:4",
    ]
    assert [Granularity.parse("1:4").on_the_way(share).n for share in (0, 0.3, 0.6, 1)] == [4, 3, 2, 1]
    assert Granularity.parse("4x1").on_the_way(0.5) == Granularity.parse("4x1")


def test_a_pattern_keeps_what_is_in_until_it_is_beaten() -> None:
    """Of 1.0 and 1.1 the first stays while it is in: 1.1 is no 1.1 / 0.9 times as much. At the end the larger stays."""
    rule = DnsRule([["w"]], 0.0, 1.0, grain=Granularity.parse("1:2"))
    rule.begin(Masked({}, Rule()), 100)
    mask, values = torch.tensor([True, False]).view(1, 2, 1, 1), torch.tensor([1.0, 1.1]).view(1, 2, 1, 1)
    window = rule.windows[0]
    assert rule._pattern(mask, values, 90, window).flatten().tolist() == [True, False]
    assert rule._pattern(mask, values * torch.tensor([1.0, 1.2]).view(1, 2, 1, 1), 90, window).flatten().tolist() == [
        False, True]  # fmt: skip
    assert torch.equal(rule._pattern(mask, values, 99, window), nm_mask(values, 1, 2))
