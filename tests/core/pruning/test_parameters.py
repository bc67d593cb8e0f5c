"""Which weights are treated, which are not, and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.parameters import find_targets
from yolov5_prune_plugin.errors import PruneError

WEIGHT = Granularity("weight")


def names(model: nn.Module, *args: object, **kwargs: object) -> list[str]:
    return [target.name for target in find_targets(model, *args or (WEIGHT,), **kwargs).targets]


def test_conv_weights_in_the_order_of_the_model(net: nn.Module) -> None:
    selection = find_targets(net, WEIGHT)
    assert [target.name for target in selection.targets] == ["0.weight", "2.weight", "3.weight"]
    assert selection.targets[1].weight is net[2].weight
    assert selection.skipped == {}


def test_what_else_there_is_is_counted_by_kind(net: nn.Module) -> None:
    net.add_module("4", nn.Linear(2, 2))
    net.add_module("5", nn.Conv1d(1, 1, 1, bias=False))
    assert find_targets(net, WEIGHT).others == {
        "BatchNorm2d weight": 8, "BatchNorm2d bias": 8, "Conv2d bias": 8 + 1,
        "Linear weight": 4, "Linear bias": 2, "Conv1d weight": 1,
    }  # fmt: skip


def test_linear_weights_are_targets_where_they_are_wanted(net: nn.Module) -> None:
    """Those of attention's out_proj too; its in_proj_weight is no layer's weight."""
    net.add_module("4", nn.Linear(2, 3))
    net.add_module("5", nn.MultiheadAttention(2, 1))
    selection = find_targets(net, WEIGHT, linear=True)
    assert [target.name for target in selection.targets[3:]] == ["4.weight", "5.out_proj.weight"]
    assert selection.targets[3].weight is net[4].weight
    assert selection.linear
    assert {kind for kind in selection.others if "BatchNorm" not in kind} == {
        "Conv2d bias", "Linear bias", "MultiheadAttention in_proj_weight", "MultiheadAttention in_proj_bias",
        "NonDynamicallyQuantizableLinear bias"}  # fmt: skip
    assert not find_targets(net, WEIGHT).linear
    assert names(net, exclude=["4.*"], linear=True) == ["0.weight", "2.weight", "3.weight", "5.out_proj.weight"]


def test_linear_weights_have_patterns_and_channels_too() -> None:
    """Input features are input channels, output features output channels."""
    net = nn.Sequential(nn.Linear(8, 2), nn.Linear(6, 1))
    assert find_targets(net, Granularity("n:m", 2, 4), linear=True).skipped == {
        "1.weight": "6 input channels are no multiple of 4"
    }
    assert find_targets(net, Granularity("channel"), linear=True).skipped == {
        "1.weight": "its only output channel must stay"
    }


def test_messages_name_the_kinds_that_were_looked_for() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(PruneError, match=r"^include: no Conv2d or Linear weight matches '9\.\*'; they run from 0"):
        find_targets(net, WEIGHT, include=["9.*"], linear=True)
    with pytest.raises(PruneError, match=r"^none of the 1 Conv2d or Linear weights is left to prune"):
        find_targets(net, WEIGHT, exclude=["*"], linear=True)
    with pytest.raises(PruneError, match=r"^the model has no Conv2d or Linear weights to prune$"):
        find_targets(nn.ReLU(), WEIGHT, linear=True)


def test_a_shared_weight_is_one_target() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    net[1].weight = net[0].weight
    selection = find_targets(net, WEIGHT)
    assert [target.name for target in selection.targets] == ["0.weight"]
    assert selection.others == {"Conv2d bias": 8}


def test_a_shared_module_is_one_target() -> None:
    conv = nn.Conv2d(4, 4, 1)
    assert names(nn.Sequential(conv, nn.ReLU(), conv)) == ["0.weight"]


def test_granularity_says_what_it_cannot_take(net: nn.Module) -> None:
    selection = find_targets(net, Granularity("n:m", 2, 4))
    assert [target.name for target in selection.targets] == ["3.weight"]
    assert selection.skipped == {
        "0.weight": "3 input channels are no multiple of 4",
        "2.weight": "1 input channels are no multiple of 4",
    }
    assert find_targets(net, Granularity("channel")).skipped == {"3.weight": "its only output channel must stay"}


def test_include_and_exclude_are_globs_and_exclude_wins(net: nn.Module) -> None:
    selection = find_targets(net, WEIGHT, include=["[02].*"], exclude=["2.*"])
    assert [target.name for target in selection.targets] == ["0.weight"]
    assert selection.skipped == {"2.weight": "excluded by '2.*'", "3.weight": "not among the included"}


@pytest.mark.parametrize("flag", ["include", "exclude"])
def test_a_glob_without_a_match_is_named(net: nn.Module, flag: str) -> None:
    with pytest.raises(PruneError) as caught:
        find_targets(net, WEIGHT, **{flag: ["0.*", "9.*"]})
    assert str(caught.value) == f"{flag}: no Conv2d weight matches '9.*'; they run from 0.weight to 3.weight"


def test_a_glob_does_not_match_what_is_no_conv_weight(net: nn.Module) -> None:
    with pytest.raises(PruneError, match=r"matches '1\.weight'"):
        find_targets(net, WEIGHT, include=["1.weight"])


def test_globs_distinguish_case() -> None:
    model = nn.Sequential()
    model.add_module("Conv", nn.Conv2d(1, 1, 1))
    with pytest.raises(PruneError, match="matches 'conv"):
        find_targets(model, WEIGHT, include=["conv.*"])


def test_nothing_left_says_why(net: nn.Module) -> None:
    with pytest.raises(PruneError) as caught:
        find_targets(net, Granularity("n:m", 4, 16), exclude=["0.*"])
    assert str(caught.value) == (
        "none of the 3 Conv2d weights is left to prune (1 input channels are no multiple of 16;"
        " 8 input channels are no multiple of 16; excluded by '0.*')"
    )


def test_a_model_without_convolutions_is_refused() -> None:
    with pytest.raises(PruneError, match=r"^the model has no Conv2d weights to prune$"):
        find_targets(nn.Linear(2, 2), WEIGHT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named(net: nn.Module, bad: float) -> None:
    net[2].weight.data[3, 0, 1, 1] = bad
    with pytest.raises(PruneError, match=r"^2\.weight has NaN or infinite weights; nothing was pruned$"):
        find_targets(net, WEIGHT)


def test_two_infinities_do_not_cancel(net: nn.Module) -> None:
    net[0].weight.data.view(-1)[:2] = torch.tensor([torch.inf, -torch.inf])
    with pytest.raises(PruneError, match=r"0\.weight"):
        find_targets(net, WEIGHT)


def test_finite_weights_whose_sum_overflows_are_fine() -> None:
    model = nn.Conv2d(4, 4, 1).half()
    nn.init.constant_(model.weight, 60_000)
    assert names(model) == ["weight"]


def test_a_weight_that_is_not_finite_may_be_left_alone(net: nn.Module) -> None:
    net[2].weight.data.fill_(float("nan"))
    assert names(net, exclude=["2.*"]) == ["0.weight", "3.weight"]
