"""Sweeps that leave no trace, hulls and budgets that can be checked by hand and against a search."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.proxy import PLAIN, output_error
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import Target, find_targets
from yolov5_prune_plugin.core.pruning.sensitivity import Sensitivity, lower_hull, reach, suggest, sweep
from yolov5_prune_plugin.errors import PruneError


def row(name: str, weights: int, errors: dict[float, float]) -> Sensitivity:
    shares = tuple(errors)
    return Sensitivity(name, (weights, 1, 1, 1), shares, shares, tuple(errors.values()))


def magnitude(target: Target, amount: float) -> None:
    prune_by_scores([target], lambda t, _: t.weight.abs(), Request(amount))


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().view(torch.int32) for name, value in model.state_dict().items()
            if value.dtype == torch.float32}  # fmt: skip


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def batches() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(3, 3, 8, 8), torch.randn(1, 3, 8, 8)]


def test_each_layer_alone(net: nn.Module, batches: list[Tensor]) -> None:
    """As pruning a copy by hand gives it: batches of 3 and 1 images average with weights 3/4 and 1/4."""
    targets = find_targets(net.eval(), Granularity("weight")).targets
    before = bits(net)
    steps: list[None] = []
    rows, measure = sweep(net, targets, (0.25, 0.5), batches, magnitude, progress=lambda: steps.append(None))
    assert same(bits(net), before)
    assert measure == PLAIN
    assert len(steps) == len(targets) * 2 * len(batches)
    assert [r.name for r in rows] == [target.name for target in targets]
    for found, target in zip(rows, targets):
        assert found.shares == pytest.approx((0.25, 0.5), abs=0.03)
        kept = target.weight.detach().clone()
        for amount, error in zip(found.amounts, found.errors):
            with torch.no_grad():
                dense = [net(batch) for batch in batches]
                magnitude(target, amount)
                by_hand = [output_error(y0, net(batch)) for y0, batch in zip(dense, batches)]
                target.weight.copy_(kept)
            assert error == pytest.approx(0.75 * by_hand[0] + 0.25 * by_hand[1], rel=1e-6)
            assert error > 0


def test_a_prune_that_changes_other_things_is_undone(net: nn.Module, batches: list[Tensor]) -> None:
    """Biases and running means included; and their effect is measured, though they come before the layer."""
    net.eval()

    def prune(target: Target, amount: float) -> None:
        with torch.no_grad():
            net[1].running_mean.add_(amount)
            net[2].bias.mul_(-1)
            net[3].weight.mul_(1)

    target = find_targets(net, Granularity("weight")).targets[-1]
    before = bits(net)
    rows, _ = sweep(net, [target], (0.5,), batches, prune, thorough=True)
    assert same(bits(net), before)
    assert rows[0].errors[0] > 0


def test_the_model_is_restored_after_a_failure(net: nn.Module, batches: list[Tensor]) -> None:
    def prune(target: Target, amount: float) -> None:
        target.weight.data.zero_()
        raise RuntimeError("no")

    before = bits(net.eval())
    with pytest.raises(RuntimeError, match="no"):
        sweep(net, find_targets(net, Granularity("weight")).targets, (0.5,), batches, prune)
    assert same(bits(net), before)


def test_a_dense_model_without_finite_outputs_is_refused(net: nn.Module) -> None:
    with pytest.raises(PruneError, match="not finite"):
        sweep(net.eval(), find_targets(net, Granularity("weight")).targets, (0.5,),
              [torch.full((1, 3, 8, 8), torch.nan)], magnitude)  # fmt: skip


def test_hull() -> None:
    """(0.5, 3) lies above the line from (0, 0) to (1, 4); (0.2, 0.4) below it."""
    assert lower_hull({0.2: 0.4, 0.5: 3.0, 1.0: 4.0}) == [(0, 0), (0.2, 0.4), (1.0, 4.0)]
    assert lower_hull({0.5: float("nan"), 0.75: float("inf")}) == [(0, 0)]
    assert lower_hull({0.25: 2.0, 0.5: 1.0}) == [(0, 0), (0.5, 1.0)]  # the larger share costs less


def test_the_cheaper_layer_first() -> None:
    """Half of 200 weights: b costs 1 for its first 50, a 2, b's next 50 cost 9: so 50 of each."""
    rows = [row("a", 100, {0.5: 2.0, 1.0: 6.0}), row("b", 100, {0.5: 1.0, 1.0: 10.0})]
    assert suggest(rows, 0.5) == {"a": 0.5, "b": 0.5}
    assert suggest(rows, 0.125) == {"a": 0, "b": 0.25}
    assert suggest(rows, 0.75) == {"a": 1.0, "b": 0.5}
    assert suggest(rows, 0) == {"a": 0, "b": 0}


def test_cost_counts_per_weight() -> None:
    """The same curve on ten times the weights is ten times as cheap."""
    assert suggest([row("small", 10, {0.5: 1.0}), row("large", 100, {0.5: 1.0})], 0.4) == pytest.approx(
        {"small": 0.0, "large": 0.44}
    )


def test_reach() -> None:
    assert reach([row("a", 30, {0.5: 1.0}), row("b", 10, {0.5: 0.0, 0.9: float("inf")})]) == 0.5


def test_more_than_was_measured_is_refused() -> None:
    with pytest.raises(PruneError, match=r"sparsity 0.8 is more than the measured amounts reach \(0.500\)"):
        suggest([row("a", 10, {0.5: 1.0})], 0.8)


@given(
    st.lists(st.tuples(st.sampled_from([8, 16, 24]), st.lists(st.integers(0, 50), min_size=2, max_size=2)), min_size=1,
             max_size=3),
    st.integers(0, 8),
)  # fmt: skip
def test_no_grid_of_amounts_beats_the_suggestion(layers: list[tuple[int, list[int]]], eighths: int) -> None:
    """Against every combination of eighths, on the interpolated hulls."""
    rows = [row(f"l{i}", size, {0.5: float(a), 1.0: float(a + b)}) for i, (size, (a, b)) in enumerate(layers)]
    total = sum(r.weights for r in rows)
    found = suggest(rows, eighths / 8)
    assert sum(found[r.name] * r.weights for r in rows) == pytest.approx(total * eighths / 8)

    def error(r: Sensitivity, share: float) -> float:
        hull = lower_hull(dict(zip(r.shares, r.errors)))
        for (left, low), (right, high) in zip(hull, hull[1:]):
            if share <= right + 1e-9:
                return low + (high - low) * (share - left) / (right - left)
        raise AssertionError(share)

    least = sum(error(r, found[r.name]) for r in rows)
    for grid in itertools.product(range(9), repeat=len(rows)):
        if sum(part * r.weights for part, r in zip(grid, rows)) >= total * eighths:
            assert least <= sum(error(r, part / 8) for part, r in zip(grid, rows)) + 1e-6
