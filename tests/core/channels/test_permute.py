"""Channel permutation: by hand, against every exchange, and that a model computes the same after it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.core.channels.networks import Chain, Plain
from yolov5_prune_plugin.core.channels.groups import Group, Member, find_channels
from yolov5_prune_plugin.core.channels.permute import best_order, orders, reorder
from yolov5_prune_plugin.core.pruning.granularity import nm_mask

pytest.importorskip("torch_pruning")
KINDS = [["residual"], ["concat"], ["ghost"], ["ghost residual"], ["pools"], ["up"], ["concat", "residual", "pools"]]


def kept(scores: Tensor, n: int, m: int) -> float:
    return float((scores * nm_mask(scores, n, m)).sum())


def test_two_blocks_by_hand() -> None:
    scores = torch.tensor([[4.0, 3, 2, 1, 0, 0, 0, 0]])
    order = best_order(scores, 2, 4)
    assert sorted(order.tolist()) == list(range(8))
    assert kept(scores, 2, 4) == 7
    assert kept(scores[:, order], 2, 4) == 10  # two of the four in each block


def test_an_order_that_nothing_improves_stays() -> None:
    assert best_order(torch.tensor([[4.0, 3, 0, 0, 2, 1, 0, 0]]), 2, 4).tolist() == list(range(8))
    assert best_order(torch.ones(5, 8), 2, 4).tolist() == list(range(8))
    assert best_order(torch.rand(3, 4), 2, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8)])
def test_no_single_exchange_is_left_that_helps(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(n * m)
    scores = torch.rand(9, 24, generator=generator).square()
    order = best_order(scores, n, m)
    best = kept(scores[:, order], n, m)
    assert best > kept(scores, n, m)
    for c, d in itertools.combinations(range(24), 2):
        other = order.clone()
        other[[c, d]] = order[[d, c]]
        assert kept(scores[:, other], n, m) <= best + 1e-4


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_a_reordered_model_computes_the_same(kinds: list[str]) -> None:
    torch.manual_seed(0)
    model, x = Chain(kinds).eval(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        before = model(x)
    groups = find_channels(model, x[:1]).groups
    generator = torch.Generator().manual_seed(1)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    index = reorder(model, groups, {g.name: torch.randperm(g.units, generator=generator) for g in groups})
    assert index
    assert any(not torch.equal(p, weights[name]) for name, p in model.named_parameters())
    with torch.no_grad():
        after = model(x)
    for one, other in zip(before, after):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_what_was_applied_to_each_tensor_is_returned() -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    groups = find_channels(model, torch.rand(1, 3, 8, 8)).groups
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    index = reorder(model, groups, {"a.0": torch.tensor([2, 0, 1, 3])})
    assert {key: value.tolist() for key, value in index.items()} == {
        ("a.0.weight", 0): [2, 0, 1, 3], ("a.1.weight", 0): [2, 0, 1, 3], ("a.1.bias", 0): [2, 0, 1, 3],
        ("a.1.running_mean", 0): [2, 0, 1, 3], ("a.1.running_var", 0): [2, 0, 1, 3], ("b.0.weight", 1): [2, 0, 1, 3],
    }  # fmt: skip
    assert torch.equal(model.b[0].weight, weights["b.0.weight"][:, [2, 0, 1, 3]])


def test_a_model_keeps_more_of_its_weights() -> None:
    torch.manual_seed(0)
    model = Chain(["concat", "residual", "pools"], 16).eval()
    groups = find_channels(model, torch.rand(1, 3, 16, 16)).groups

    def scores() -> dict[str, Tensor]:
        return {f"{name}.weight": module.weight.detach().square() for name, module in model.named_modules()
                if isinstance(module, nn.Conv2d) and module.in_channels % 4 == 0}  # fmt: skip

    before = sum(kept(score, 2, 4) for score in scores().values())
    found = orders(groups, scores(), 2, 4)
    assert found
    reorder(model, groups, found)
    assert sum(kept(score, 2, 4) for score in scores().values()) > 1.02 * before


def test_blocks_that_reach_beyond_a_group_are_left_alone() -> None:
    scores = {"reader.weight": torch.rand(4, 12, 1, 1)}

    def group(channels: list[tuple[int, ...]]) -> Group:
        outs = tuple((unit,) for unit in range(len(channels)))
        return Group("maker", len(channels), (Member("maker", "out", outs), Member("reader", "in", tuple(channels))))

    inside = group([(unit,) for unit in range(4, 12)])
    assert list(orders([inside], scores, 2, 4)) == ["maker"]
    assert orders([group([(unit,) for unit in range(2, 10)])], scores, 2, 4) == {}
    assert orders([group([(unit,) for unit in range(6)])], scores, 2, 4) == {}
    assert orders([group([(11 - unit,) for unit in range(8)])], scores, 2, 4) == {}
    assert orders([inside], {}, 2, 4) == {}
