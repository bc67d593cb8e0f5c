"""Amounts within a budget: by hand, against trying everything, against the greedy way; and what cannot be reached."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolov5_prune_plugin.core.pruning.chooser import BUCKETS, Table, choose, interpolated, table_of
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.multiplications import uses_at
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import find_targets
from yolov5_prune_plugin.core.pruning.sensitivity import Sensitivity
from yolov5_prune_plugin.core.pruning.sparsity import measure
from yolov5_prune_plugin.core.pruning.target import amounts_for, tables_by_scores, tables_by_sensitivity
from yolov5_prune_plugin.errors import PruneError


def test_by_hand() -> None:
    """Half of the first saves 10 at a loss of 1, half of the second 2 at a loss of 0.5."""
    tables = {"a": Table((0, 0.5), (0, 1), (20, 10)), "b": Table((0, 0.5), (0, 0.5), (4, 2))}
    assert choose(tables, 24) == {"a": 0, "b": 0}
    assert choose(tables, 22) == {"a": 0, "b": 0.5}
    assert choose(tables, 14) == {"a": 0.5, "b": 0}
    assert choose(tables, 12) == {"a": 0.5, "b": 0.5}


def test_any_costs_will_do() -> None:
    """As measured: a sparse kernel may be slower than the dense one at first, and losses need not rise."""
    tables = {"a": Table((0, 0.3, 0.9), (0, 2, 3), (10, 12, 4)), "b": Table((0, 0.9), (5, 1), (6, 6))}
    assert choose(tables, 16) == {"a": 0, "b": 0.9}
    assert choose(tables, 15) == {"a": 0.9, "b": 0.9}


def test_what_cannot_be_reached() -> None:
    with pytest.raises(PruneError) as caught:
        choose({"a": Table((0, 0.9), (0, 1), (10, 1))}, 0.5)
    assert str(caught.value) == "a cost of 0.5 cannot be reached: the least is 1"
    assert choose({"a": Table((0, 0.9), (0, 1), (10, 1))}, 1) == {"a": 0.9}


@pytest.mark.parametrize("wrong", [((), (), ()), ((0,), (0, 1), (1,)), ((0,), (math.nan,), (1,)), ((0,), (0,), (-1,))])
def test_tables_that_are_none(wrong: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(PruneError, match="a table"):
        Table(*wrong)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_as_good_as_trying_everything(data: st.DataObject) -> None:
    """Up to rounding of the costs to buckets: no choice of less loss fits a budget smaller by that."""
    number = st.integers(0, 50)
    tables = {}
    for name in "abcd"[: data.draw(st.integers(1, 4))]:
        size = data.draw(st.integers(1, 4))
        losses, costs = (tuple(data.draw(st.lists(number, min_size=size, max_size=size))) for _ in range(2))
        tables[name] = Table(tuple(i / 10 for i in range(size)), losses, costs)
    least = sum(min(table.costs) for table in tables.values())
    most = sum(max(table.costs) for table in tables.values())
    budget = least + data.draw(st.floats(0, 1)) * (most - least)
    chosen = choose(tables, budget)
    indices = {name: table.amounts.index(chosen[name]) for name, table in tables.items()}
    assert sum(table.costs[indices[name]] for name, table in tables.items()) <= budget * (1 + 1e-9)
    lost = sum(table.losses[indices[name]] for name, table in tables.items())
    room = budget - least - len(tables) * (budget - least) / BUCKETS
    for picks in itertools.product(*(range(len(table.amounts)) for table in tables.values())):
        if sum(table.costs[i] for table, i in zip(tables.values(), picks)) <= least + room:
            assert lost <= sum(table.losses[i] for table, i in zip(tables.values(), picks)) + 1e-9


def convs() -> nn.Sequential:
    """The second layer has a quarter of the first one's positions; the third is left alone in some tests."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, padding=1), nn.Conv2d(16, 4, 1))


@pytest.mark.parametrize("grain", ["weight", "4x1", "channel"])
@pytest.mark.parametrize("left", [0.7, 0.4])
def test_the_share_of_multiplications_is_left(grain: str, left: float) -> None:
    """By squared magnitude; no more, and less by one step of a layer's amounts at most."""
    net, kind = convs(), Granularity.parse(grain)
    selection, uses = find_targets(net, kind), uses_at(net, 16, 16)
    tables = tables_by_scores(selection.targets, lambda t: t.weight.detach().square(), kind, uses)
    amounts = amounts_for(left, tables, net, selection, uses)
    request = Request(0.0, granularity=kind, amounts=amounts).fitted(selection)
    prune_by_scores(selection.targets, lambda t, _: t.weight.detach().abs(), request)
    found = 1 - measure(net, selection, uses).multiplication_sparsity
    assert left - (0.12 if grain == "channel" else 0.05) < found <= left + 1e-9


def test_dynamic_programming_finds_what_greed_finds_where_tables_are_convex() -> None:
    """Losses of sorted units are convex, so the lowest losses for the multiplications saved are as good as it gets."""
    net, kind = convs(), Granularity("weight")
    selection, uses = find_targets(net, kind), uses_at(net, 16, 16)
    tables = tables_by_scores(selection.targets, lambda t: t.weight.detach().square(), kind, uses)
    amounts = amounts_for(0.5, tables, net, selection, uses)
    ranked = sorted((float(loss) / uses[t.name], uses[t.name], float(loss)) for t in selection.targets
                    for loss in t.weight.detach().square().flatten())  # fmt: skip
    total = sum(use for _, use, _ in ranked)
    saved = lost = 0.0
    for _, use, loss in ranked:
        if saved >= total / 2:
            break
        saved, lost = saved + use, lost + loss
    found = sum(tables[name].losses[tables[name].amounts.index(amount)] for name, amount in amounts.items())
    assert lost <= found * 1.001
    assert found <= lost * 1.1


def test_layers_left_alone_count() -> None:
    """All their multiplications stay; what cannot be reached is said with what can."""
    net, kind = convs(), Granularity("weight")
    selection, uses = find_targets(net, kind, exclude=["1.*"]), uses_at(net, 16, 16)
    tables = tables_by_scores(selection.targets, lambda t: t.weight.detach().square(), kind, uses)
    fixed = 1152 * 64 / (216 * 256 + 1152 * 64 + 64 * 64)
    assert uses == {"0.weight": 256, "1.weight": 64, "2.weight": 64}
    with pytest.raises(PruneError) as caught:
        amounts_for(0.3, tables, net, selection, uses)
    assert "a share of 0.3 of the multiplications cannot be reached: at least 0.558" in str(caught.value)
    assert f"of which {fixed:.3f} are in layers that are left alone" in str(caught.value)
    assert set(amounts_for(0.8, tables, net, selection, uses)) == {"0.weight", "2.weight"}


def test_table_of_units_by_hand() -> None:
    """Losses 4, 1, 3 of units of 2, 2 and 1 weights, each used ten times; the lowest go first."""
    table = table_of(torch.tensor([4.0, 1.0, 3.0]), torch.tensor([2, 2, 1]), 10, (0, 1 / 3, 2 / 3))
    assert table == Table((0, 1 / 3, 2 / 3), (0, 1, 4), (50, 30, 20))


def test_between_measured_amounts_losses_grow_geometrically() -> None:
    """From 1 to 4 by way of 2; from nothing to 1 along a parabola."""
    table = interpolated(Table((0, 0.4, 0.8), (0, 1, 4), (10, 6, 2)), (0, 0.2, 0.4, 0.6, 0.8))
    assert table.losses == pytest.approx((0, 0.25, 1, 2, 4))
    assert table.costs == pytest.approx((10, 8, 6, 4, 2))


def test_tables_of_sensitivity() -> None:
    """Errors never fall, and those that are no number are left out; costs follow the zeros that came of it."""
    row = Sensitivity("w", (2, 5, 1, 1), (0.5, 0.7, 0.9), (0.4, 0.7, 0.9), (0.2, 0.1, math.nan))
    table = tables_by_sensitivity([row], {"w": 3})["w"]
    assert table.costs[0] == 30
    assert table.amounts[-1] <= 0.7
    half = min(range(len(table.amounts)), key=lambda i: abs(table.amounts[i] - 0.5))
    assert table.costs[half] == pytest.approx(18, abs=1)
    assert list(table.losses) == sorted(table.losses)
    assert table.losses[-1] == pytest.approx(0.2)
