"""Amounts by layer on small networks: what is dropped, what is refused; found amounts ask for the same again."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.amounts import amounts_of, check_kept, units_of
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.importance import magnitude
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores, units_to_drop
from yolov5_prune_plugin.core.pruning.parameters import Target, find_targets
from yolov5_prune_plugin.core.pruning.sparsity import Sparsity, measure
from yolov5_prune_plugin.errors import PruneError

WEIGHT, CHANNEL = Granularity("weight"), Granularity("channel")


def by_magnitude(target: Target, request: Request) -> Tensor:
    return magnitude(target.weight)


def two_convs() -> nn.Sequential:
    """Weights .1 .2 .3 .4 and 3 -5 6 7, each two filters of two."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).view(2, 2, 1, 1))
    model[1].weight.data.copy_(torch.tensor([3.0, -5.0, 6.0, 7.0]).view(2, 2, 1, 1))
    return model


def pruned(model: nn.Module, amounts: dict[str, float], grain: Granularity = WEIGHT) -> Sparsity:
    selection = find_targets(model, grain)
    prune_by_scores(selection.targets, by_magnitude, Request(0, granularity=grain, amounts=amounts).fitted(selection))
    return measure(model, selection, rows=[grain.rows] if grain.rows else [])


def test_each_layer_drops_its_own_share() -> None:
    model = two_convs()
    pruned(model, {"0.weight": 0.25, "1.weight": 0.75})
    assert torch.equal(model[0].weight.flatten(), torch.tensor([0, 0.2, 0.3, 0.4]))
    assert model[1].weight.flatten().tolist() == [0, 0, 0, 7]


def test_a_layer_that_is_not_named_stays_dense() -> None:
    assert [layer.zeros for layer in pruned(two_convs(), {"1.weight": 0.5}).layers] == [0, 2]


def test_shares_of_channels() -> None:
    """One filter of two; 0.99 would be both, but one stays."""
    model = two_convs()
    assert [layer.channels for layer in pruned(model, {"0.weight": 0.5, "1.weight": 0.99}, CHANNEL).layers] == [1, 1]
    assert model[1].weight.flatten().tolist() == [0, 0, 6, 7]


@pytest.mark.parametrize(
    ("grain", "amounts", "overall"),
    [(WEIGHT, {"0.weight": 0.25, "1.weight": 0.75}, 4 / 8), (WEIGHT, {"0.weight": 0.2}, 1 / 8),
     (CHANNEL, {"1.weight": 0.5}, 2 / 8), (WEIGHT, {"0.weight": 0}, 0)],
)  # fmt: skip
def test_the_overall_sparsity_follows(grain: Granularity, amounts: dict[str, float], overall: float) -> None:
    request = Request(0, granularity=grain, amounts=amounts)
    assert request.fitted(find_targets(two_convs(), grain)).sparsity == overall


def test_units_to_drop_by_amounts_or_else_by_distribution() -> None:
    targets = find_targets(two_convs(), WEIGHT).targets
    amounts = Request(0, amounts={"1.weight": 0.5})
    assert units_to_drop(targets, by_magnitude, amounts) == {"0.weight": 0, "1.weight": 2}
    assert units_to_drop(targets, by_magnitude, Request(0.5, "global")) == {"0.weight": 4, "1.weight": 0}
    assert units_to_drop(targets, by_magnitude, Request(0.5, granularity=Granularity.parse("1:2"))) == {}


@pytest.mark.parametrize("amount", [1, -0.1, float("nan")])
def test_amounts_are_shares(amount: float) -> None:
    with pytest.raises(PruneError, match=r"^the amount of a must be in \[0, 1\), got "):
        Request(0, amounts={"a": amount})


def test_a_pattern_has_no_amounts() -> None:
    with pytest.raises(PruneError, match="granularity 2:4 drops the same of every layer"):
        Request(0, granularity=Granularity.parse("2:4"), amounts={"a": 0.5})


@pytest.mark.parametrize(
    ("name", "says"),
    [("0.wieght", "no Conv2d weight is called '0.wieght'; nearest are 0.weight"),
     ("backbone", "no Conv2d weight is called 'backbone'; they run from 0.weight to 1.weight"),
     ("1.weight", r"1.weight has an amount, but is left alone: excluded by '1.\*'")],
)  # fmt: skip
def test_names_must_be_layers_that_are_pruned(name: str, says: str) -> None:
    selection = find_targets(two_convs(), WEIGHT, exclude=["1.*"])
    with pytest.raises(PruneError, match=says):
        Request(0, amounts={name: 0.5}).fitted(selection)


def test_a_method_that_ignores_amounts_is_noticed() -> None:
    sparsity = pruned(two_convs(), {"0.weight": 0.5})
    check_kept({"0.weight": 0.5}, sparsity, WEIGHT)
    with pytest.raises(PruneError, match=r"left 1.weight at 0.000, and its amount is 0.25"):
        check_kept({"0.weight": 0.5, "1.weight": 0.25}, sparsity, WEIGHT)


def test_a_layer_without_a_weight_left_can_be_asked_for_again() -> None:
    """4 of 4: the amount is below 1 and still rounds to all four."""
    model = two_convs()
    selection = find_targets(model, WEIGHT)
    prune_by_scores(selection.targets, by_magnitude, Request(0.5, "global"))
    amounts = amounts_of(measure(model, selection), WEIGHT)
    assert amounts == {"0.weight": 3.75 / 4, "1.weight": 0}
    assert units_of(selection.targets, amounts, WEIGHT) == {"0.weight": 4, "1.weight": 0}


@given(st.floats(0, 0.99), st.sampled_from(["uniform", "global", "erk", "lamp"]), st.sampled_from([WEIGHT, CHANNEL]))
def test_amounts_found_give_the_same_model_again(sparsity: float, distribution: str, grain: Granularity) -> None:
    torch.manual_seed(1)
    first = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Conv2d(7, 5, 1), nn.Conv2d(5, 6, 3, groups=1))
    second = copy.deepcopy(first)
    selection = find_targets(first, grain)
    prune_by_scores(selection.targets, by_magnitude, Request(sparsity, distribution, grain))
    pruned(second, amounts_of(measure(first, selection), grain), grain)
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)


def test_shares_of_blocks() -> None:
    """Blocks of two filters: .1 + .3 and .2 + .4, of which one goes; then the amounts found ask for the same."""
    model, grain = two_convs(), Granularity.parse("2x1")
    found = pruned(model, {"0.weight": 0.5}, grain)
    assert model[0].weight.flatten().tolist() == pytest.approx([0, 0.2, 0, 0.4])
    assert amounts_of(found, grain) == {"0.weight": 0.5, "1.weight": 0}
    check_kept({"0.weight": 0.5}, found, grain)
    with pytest.raises(PruneError, match=r"left 1\.weight at 0\.000, and its amount is 0\.5"):
        check_kept({"1.weight": 0.5}, found, grain)
