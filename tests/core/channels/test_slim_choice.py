"""Which units go: importance, allocation, and what a repair gives back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Optional

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("torch_pruning")
from tests.core.channels.networks import Chain, Plain
from yolov5_prune_plugin.core.channels.allocation import by_score, by_share, fewest, gone_after, steps, widths
from yolov5_prune_plugin.core.channels.cost import Cost
from yolov5_prune_plugin.core.channels.cut import cut
from yolov5_prune_plugin.core.channels.groups import Group, Member, find_channels
from yolov5_prune_plugin.core.channels.importance import score_units
from yolov5_prune_plugin.core.channels.repair import repair
from yolov5_prune_plugin.core.channels.sensitivity import by_loss, curves
from yolov5_prune_plugin.core.channels.slim import SlimConfig, SlimPlan, SlimResult, no_bar, slim
from yolov5_prune_plugin.core.outputs.images import Images
from yolov5_prune_plugin.errors import PruneError

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("units", "multiple", "floor", "expected"),
    [(32, 8, 0.1, [32, 24, 16, 8]), (32, 8, 0.5, [32, 24, 16]), (20, 8, 0.1, [20, 16, 8]), (4, 8, 0.1, [4]),
     (3, 1, 0.4, [3, 2]), (8, 8, 1.0, [8])],
)  # fmt: skip
def test_widths(units: int, multiple: int, floor: float, expected: list[int]) -> None:
    """All, and multiples down to the floor."""
    assert widths(units, multiple, floor) == expected


def groups(**units: int) -> list[Group]:
    """Groups of one layer each."""
    return [Group(name, n, (Member(name, "out", tuple((i,) for i in range(n))),)) for name, n in units.items()]


def test_uniform_and_global_order() -> None:
    """By shares every group is halved before any is quartered; by scores the small ones go, wherever they are."""
    both = groups(a=4, b=4)
    scores = {"a": torch.tensor([1.0, 2, 3, 4]), "b": torch.tensor([9.0, 8, 7, 6])}
    order = steps(both, scores, 2, 0.1, by_share)
    assert [(s.group, s.units) for s in order] == [("a", (0, 1)), ("b", (3, 2))]
    order = steps(both, scores, 1, 0.1, by_score(scores))
    assert [s.units[0] for s in order if s.group == "a"] == [0, 1, 2]
    assert [s.group for s in order] == ["a"] * 3 + ["b"] * 3
    assert gone_after(order, 4) == {"a": [0, 1, 2], "b": [3]}


def test_a_target_is_reached_with_as_little_as_can_be() -> None:
    """And one that can't be reached says what can."""
    both = groups(a=4, b=4)
    order = steps(both, {g.name: torch.arange(4.0) for g in both}, 1, 0.25, by_share)

    def left(removed: dict[str, list[int]]) -> float:
        return 1 - sum(map(len, removed.values())) / 8

    assert fewest(order, left, 1.0, "flops") == 0
    assert fewest(order, left, 0.5, "flops") == 4
    assert fewest(order, left, 0.51, "flops") == 4
    with pytest.raises(PruneError, match=r"^target: flops=0.2 cannot be reached: .* 0.250 of the dense"):
        fewest(order, left, 0.2, "flops")


@given(st.floats(0.2, 0.95), st.sampled_from(["uniform", "global"]))
def test_cost_is_at_most_the_target_and_one_step_less_is_not(target: float, how: str) -> None:
    """For a real net and both costs."""
    torch.manual_seed(0)
    net = Chain(["concat", "residual"], 16).eval()
    found = find_channels(net, X).groups
    cost = Cost(net, found, X)
    whole = cost.of({})["flops"]
    scores = score_units(net, found, "l2")
    order = steps(found, scores, 2, 0.1, by_share if how == "uniform" else by_score(scores))

    def share(removed: dict[str, list[int]]) -> float:
        return cost.of(removed)["flops"] / whole

    count = fewest(order, share, target, "flops")
    assert share(gone_after(order, count)) <= target < share(gone_after(order, count - 1))


def test_importance_by_hand() -> None:
    """Of the four channels between a and b."""
    net = Plain().eval()
    found = find_channels(net, X).groups
    with torch.no_grad():
        net.a[0].weight.zero_()
        net.a[0].weight[:, 0, 0, 0] = torch.tensor([1.0, -2, 3, 2])
        net.b[0].weight.fill_(1.0)
        net.a[1].weight.copy_(torch.tensor([0.5, -4, 1, 2]))
    l1 = score_units(net, found, "l1")["a.0"]
    torch.testing.assert_close(l1, (torch.tensor([0.5, 1, 1.5, 1]) + 1) / 2)
    assert score_units(net, found, "bn")["a.0"].tolist() == [0.5, 4, 1, 2]
    lamp = score_units(net, found, "lamp")["a.0"]
    squares = l1.square()  # here l2 is l1
    torch.testing.assert_close(lamp[2], torch.tensor(1.0))
    torch.testing.assert_close(lamp[0], squares[0] / squares.sum())


def test_importance_from_images() -> None:
    """A unit that nothing reads loses nothing; none has to be labelled; without images it is refused."""
    net = Plain().eval()
    found = find_channels(net, X).groups
    with torch.no_grad():
        net.b[0].weight[:, 2] = 0
    for kind in ("taylor", "second"):
        scores = score_units(net, found, kind, [X, X.flip(3)])["a.0"]
        assert scores[2] == 0
        assert (scores[[0, 1, 3]] > 0).all()
        with pytest.raises(PruneError, match=r"^images: .* looks at images, and there are none"):
            score_units(net, found, kind)
    assert all(p.grad is None for p in net.parameters())


def test_bn_needs_scales() -> None:
    """A convolution alone has none."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    with pytest.raises(PruneError, match="take l2"):
        score_units(net, find_channels(net, X).groups, "bn")


def test_sensitivity_spares_what_matters() -> None:
    """The group whose channels are read with larger weights goes later, for the same saving."""
    torch.manual_seed(0)
    net = Plain().eval()
    found = find_channels(net, X).groups
    with torch.no_grad():
        net.b[0].weight.mul_(1e-4)
    before = copy.deepcopy(net.state_dict())
    scores = score_units(net, found, "l2")
    points = curves(net, found, scores, 1, 0.2, [X])
    assert points["a.0"][-1][1] < points["b.0"][-1][1]
    assert all(y0 <= y1 for curve in points.values() for (_, y0), (_, y1) in zip(curve, curve[1:]))
    order = steps(found, scores, 1, 0.2, by_loss(points, lambda group, units: len(units) / group.units))
    assert [s.group for s in order][:3] == ["a.0"] * 3
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_what_can_be_made_up_for_is() -> None:
    """A channel that is the double of another costs nothing once its reader makes up for it."""
    net = Plain().eval()
    with torch.no_grad():
        for layer in net.a[:2]:
            for tensor in layer.state_dict().values():
                if tensor.dim():
                    tensor[1] = tensor[0]
    found = find_channels(net, X).groups
    images = Images([torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(2))])
    work = copy.deepcopy(net)
    result = repair(net, work, found, {"a.0": [1]}, images)
    assert "least squares" in result.kept
    assert result.distances[result.kept] < 0.01 * result.distances["nothing"]
    cut(work, found, {"a.0": [1]})
    torch.testing.assert_close(work(X), net(X), rtol=0.02, atol=0.02)


class Left(nn.Module):
    """Two channels that are read by one; its right half is no output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
            self.c.weight.copy_(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x))[..., : x.shape[-1] // 2]


def test_positions_that_do_not_matter_count_less() -> None:
    """Channel 1 is channel 0 on the left, and its negative on the right: all alike, 0 would be the best of it.

    The left has a position weight of 2, the right of 0; weights are 0.3 + 0.7 times that, and (1.7 - 0.3) / 2 the best.
    """
    net = Left().eval()
    one = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    sign = torch.ones(16)
    sign[8:] = -1
    work = copy.deepcopy(net)
    repair(net, work, find_channels(net, one.expand(-1, 2, -1, -1)).groups, {"a": [1]},
           Images([torch.cat([one, one * sign], 1)]))  # fmt: skip
    assert work.c.weight.flatten().tolist() == pytest.approx([0.7, 0], abs=0.03)


def test_nothing_is_mended_without_images() -> None:
    """Too few to judge by: the silenced model, and it says so."""
    net = Plain().eval()
    found = find_channels(net, X).groups
    work = copy.deepcopy(net)
    result = repair(net, work, found, {"a.0": [1]}, Images([X]))
    assert result.kept == "nothing"
    assert not work.b[0].weight[:, 1].any()


def test_another_target_needs_no_second_look() -> None:
    """What a first cut found of the model serves a milder one, which comes out as if nothing had been known."""
    net = Plain().eval()
    images = Images([torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(2))])
    said: list[str] = []

    def bar(what: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        said.append(what)
        return no_bar(what, total)

    def cut_to(target: float, plan: Optional[SlimPlan] = None) -> tuple[nn.Module, SlimResult]:
        model = copy.deepcopy(net)
        wanted = SlimConfig("flops", target, allocation="sensitivity", multiple=1)
        with torch.no_grad():
            return model, slim(model, wanted, X, X, images, bar, plan=plan)

    first, fresh = cut_to(0.6)[1], cut_to(0.8)
    assert said == ["tracing", "importance l2", "sensitivity", "repair"] * 2
    again = cut_to(0.8, first.plan)
    assert said[8:] == ["repair"]
    assert first.after["flops"] < again[1].after["flops"] == fresh[1].after["flops"] < again[1].before["flops"]
    assert again[1].widths == fresh[1].widths
    assert all(torch.equal(a, b) for a, b in zip(again[0].state_dict().values(), fresh[0].state_dict().values()))
