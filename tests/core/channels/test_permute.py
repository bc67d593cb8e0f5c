"""Channel permutation: by hand, against every exchange, and that a model computes the same after it."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.core.channels.networks import Chain, Plain
from yolov5_prune_plugin.core.channels import permute as permute_module
from yolov5_prune_plugin.core.channels.groups import Group, Member, find_channels
from yolov5_prune_plugin.core.channels.permute import KEPT, best_order, order_of_blocks, orders, permute, reorder
from yolov5_prune_plugin.core.pruning.granularity import Granularity, nm_mask

pytest.importorskip("torch_pruning")
PATTERN, BLOCKS = Granularity.parse("2:4"), Granularity.parse("4x1")
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
    found = orders(groups, scores(), PATTERN)
    assert found
    reorder(model, groups, found)
    assert sum(kept(score, 2, 4) for score in scores().values()) > 1.02 * before


def test_blocks_that_reach_beyond_a_group_are_left_alone() -> None:
    scores = {"reader.weight": torch.rand(4, 12, 1, 1)}

    def group(channels: list[tuple[int, ...]]) -> Group:
        outs = tuple((unit,) for unit in range(len(channels)))
        return Group("maker", len(channels), (Member("maker", "out", outs), Member("reader", "in", tuple(channels))))

    inside = group([(unit,) for unit in range(4, 12)])
    assert list(orders([inside], scores, PATTERN)) == ["maker"]
    assert orders([group([(unit,) for unit in range(2, 10)])], scores, PATTERN) == {}
    assert orders([group([(unit,) for unit in range(6)])], scores, PATTERN) == {}
    assert orders([group([(11 - unit,) for unit in range(8)])], scores, PATTERN) == {}
    assert orders([inside], {}, PATTERN) == {}


def in_blocks(scores: Tensor, order: Tensor, rows: int = 4) -> float:
    """What the best KEPT of the blocks hold in an order."""
    blocks = scores[order].view(len(scores) // rows, rows, -1).sum(1).flatten()
    return float(blocks.topk(round(KEPT * len(blocks))).values.sum())


def test_output_channels_that_are_alike_share_blocks_by_hand() -> None:
    """Channels 0 and 2 matter where 1 and 3 don't, and the other way round: a quarter of the blocks of two holds 6."""
    scores = torch.tensor([[3.0, 0, 0, 0], [0, 2, 0, 0], [3, 0, 0, 0], [0, 2, 0, 0]])
    order = order_of_blocks([scores], 2)
    assert {frozenset(order[:2].tolist()), frozenset(order[2:].tolist())} == {frozenset({0, 2}), frozenset({1, 3})}
    assert in_blocks(scores, order, 2) == 6 + 4


def test_no_exchange_between_blocks_is_left_that_helps() -> None:
    """By what they hold beyond the threshold, which the order has in the end."""
    scores = torch.rand(24, 30, generator=torch.Generator().manual_seed(0)) ** 4
    order = order_of_blocks([scores], 4)
    assert in_blocks(scores, order) > 1.05 * in_blocks(scores, torch.arange(24))
    blocks = scores[order].view(6, 4, -1).sum(1).flatten()
    edge = blocks.sort(descending=True).values[round(KEPT * len(blocks)) - 1]

    def worth(order: Tensor) -> float:
        return float((scores[order].view(6, 4, -1).sum(1) - edge).clamp_min(0).sum())

    best = worth(order)
    for c, d in itertools.combinations(range(24), 2):
        other = order.clone()
        other[[c, d]] = order[[d, c]]
        assert worth(other) <= best + 1e-4


def test_channels_that_form_no_block_stay_at_the_end() -> None:
    scores = torch.rand(10, 30, generator=torch.Generator().manual_seed(0)) ** 4
    order = order_of_blocks([scores], 4).tolist()
    assert order[8:] == [8, 9]
    assert sorted(order) == list(range(10))
    assert order_of_blocks([scores[:5]], 4).tolist() == list(range(5)), "one block has nothing to exchange with"


def test_a_large_layer_is_judged_by_some_of_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.rand(24, 3000, generator=torch.Generator().manual_seed(0)) ** 4
    scores[::2] *= (torch.arange(3000) % 2 == 0).float() + 0.01
    scores[1::2] *= (torch.arange(3000) % 2 == 1).float() + 0.01
    monkeypatch.setattr(permute_module, "WORK", 24**2 * 60)
    assert in_blocks(scores, order_of_blocks([scores], 4)) > 1.2 * in_blocks(scores, torch.arange(24))


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_a_model_in_a_new_order_of_blocks(kinds: list[str]) -> None:
    """It computes the same, and its blocks hold more; also where layers are added up, or read together."""
    torch.manual_seed(0)
    model, x = Chain(kinds, 16).eval(), torch.rand(2, 3, 16, 16)

    def scores() -> dict[str, Tensor]:
        return {f"{name}.weight": module.weight.detach() ** 4 for name, module in model.named_modules()
                if isinstance(module, nn.Conv2d) and module.groups == 1}  # fmt: skip

    with torch.no_grad():
        before = model(x)
    old = copy.deepcopy(model)
    done = permute(model, x[:1], scores(), BLOCKS)
    assert done is not None
    assert done.groups > 0
    assert done.after < done.before
    with torch.no_grad():
        for one, other in zip(before, model(x)):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    done.apply(old)
    for one, other in zip(old.state_dict().values(), model.state_dict().values()):
        assert torch.equal(one, other)
