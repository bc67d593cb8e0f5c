"""One-shot pruning of small networks, against torch.nn.utils.prune where it has an answer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from yolov5_prune_plugin.core.pruning.distribution import NAMES
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.importance import magnitude, random
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import Target, find_targets
from yolov5_prune_plugin.errors import PruneError


def by_magnitude(target: Target, request: Request) -> Tensor:
    return magnitude(target.weight)


def by_chance(target: Target, request: Request) -> Tensor:
    return random(target.weight, target.name, request.seed)


def pruned(model: nn.Module, sparsity: float, distribution: str = "uniform", grain: str = "weight") -> nn.Module:
    """Prune in place, by magnitude."""
    request = Request(sparsity, distribution, Granularity.parse(grain))
    prune_by_scores(find_targets(model, request.granularity).targets, by_magnitude, request)
    return model


def zeros(model: nn.Module) -> list[int]:
    return [int((module.weight == 0).sum()) for module in model if isinstance(module, nn.Conv2d)]


def two_convs() -> nn.Sequential:
    """Weights .1 .2 .3 .4 and 3 -5 6 7: one layer much smaller than the other."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).view(2, 2, 1, 1))
    model[1].weight.data.copy_(torch.tensor([3.0, -5.0, 6.0, 7.0]).view(2, 2, 1, 1))
    return model


@pytest.mark.parametrize(
    ("distribution", "first", "second"),
    [
        ("uniform", [0, 0, 0.3, 0.4], [0, 0, 6, 7]),
        ("global", [0, 0, 0, 0], [3, -5, 6, 7]),
        ("erk", [0, 0, 0.3, 0.4], [0, 0, 6, 7]),
        ("lamp", [0, 0, 0.3, 0.4], [0, 0, 6, 7]),
    ],
)
def test_four_and_four_weights_by_hand(distribution: str, first: list[float], second: list[float]) -> None:
    model = pruned(two_convs(), 0.5, distribution)
    assert torch.equal(model[0].weight.flatten(), torch.tensor(first))
    assert torch.equal(model[1].weight.flatten(), torch.tensor(second))


def test_whole_channels_by_hand() -> None:
    """Means of magnitudes: .15 .35 and 4 6.5."""
    model = pruned(two_convs(), 0.5, "uniform", "channel")
    assert model[0].weight.flatten().count_nonzero() == 2
    assert model[1].weight.flatten().tolist() == [0, 0, 6, 7]


@pytest.mark.parametrize(("distribution", "expected"), [("global", [2, 0]), ("lamp", [1, 1])])
def test_channels_compare_by_score_or_by_lamp_score(distribution: str, expected: list[int]) -> None:
    """1 2 3 and 10 20 30: two of the six filters go. LAMP scores are those of 1 2 3 in both layers."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(1, 3, 1, bias=False))
    for conv, scale in zip(model, (1, 10)):
        conv.weight.data = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1) * scale
    assert zeros(pruned(model, 1 / 3, distribution, "channel")) == expected


def test_n_of_m_by_hand() -> None:
    """Of every two input channels the larger weight stays."""
    assert pruned(two_convs(), 0.5, "uniform", "1:2")[1].weight.flatten().tolist() == [0, -5, 0, 7]


def test_sparsity_zero_changes_nothing(net: nn.Module) -> None:
    before = copy.deepcopy(net.state_dict())
    for distribution in NAMES:
        for grain in ("weight", "channel"):
            pruned(net, 0.0, distribution, grain)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("sparsity", [0.001, 0.3, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("half", [False, True])
def test_bit_for_bit_what_torch_prunes(net: nn.Module, sparsity: float, half: bool) -> None:
    """l1_unstructured and remove on each Conv2d, as upstream's own ``prune`` does; -0.0 and ties included."""
    for parameter in net.parameters():
        parameter.data = parameter.data.half().float()
    net = net.half() if half else net
    expected = copy.deepcopy(net)
    for module in expected:
        if isinstance(module, nn.Conv2d):
            prune.l1_unstructured(module, "weight", amount=sparsity)
            prune.remove(module, "weight")
    pruned(net, sparsity)
    bits = torch.int16 if half else torch.int32
    theirs = dict(expected.named_parameters())
    assert all(torch.equal(p.view(bits), theirs[name].view(bits)) for name, p in net.named_parameters())


@pytest.mark.parametrize("distribution", ["global", "erk", "lamp"])
def test_the_overall_sparsity_is_exact(net: nn.Module, distribution: str) -> None:
    total = 8 * 27 + 8 * 9 + 8
    for sparsity in (0.1, 0.5, 0.9):
        assert sum(zeros(pruned(copy.deepcopy(net), sparsity, distribution))) == round(sparsity * total)


@pytest.mark.parametrize("distribution", NAMES)
def test_a_filter_of_each_layer_stays(net: nn.Module, distribution: str) -> None:
    pruned(net, 0.999, distribution, "channel")
    for conv in (net[0], net[2], net[3]):
        per_filter = conv.weight.flatten(1).count_nonzero(1)
        assert bool(per_filter.any())
        assert set(per_filter.tolist()) <= {0, conv.weight[0].numel()}


def test_grouped_and_depthwise_convolutions_are_like_others() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1, groups=2))
    assert zeros(pruned(copy.deepcopy(model), 0.5)) == [36, 16]
    assert zeros(pruned(copy.deepcopy(model), 0.5, "uniform", "channel")) == [36, 16]
    assert zeros(pruned(copy.deepcopy(model), 0.5, "uniform", "2:4")) == [0, 16]


@pytest.mark.parametrize("distribution", NAMES)
@pytest.mark.parametrize("grain", ["weight", "channel"])
def test_linear_weights_are_pruned_like_others(distribution: str, grain: str) -> None:
    """As the 1 x 1 convolution with the same weight."""
    conv, linear = nn.Sequential(nn.Conv2d(8, 6, 1)), nn.Sequential(nn.Linear(8, 6))
    linear[0].weight.data = conv[0].weight.detach().flatten(1).clone()
    request = Request(0.4, distribution, Granularity.parse(grain))
    for model in (conv, linear):
        prune_by_scores(find_targets(model, request.granularity, linear=True).targets, by_magnitude, request)
    assert torch.equal(conv[0].weight.flatten(1), linear[0].weight)
    assert (linear[0].weight == 0).any()


def test_linear_weights_have_patterns() -> None:
    """2 of every 4 input features."""
    model = nn.Sequential(nn.Linear(8, 3))
    request = Request(0.5, "uniform", Granularity.parse("2:4"))
    prune_by_scores(find_targets(model, request.granularity, linear=True).targets, by_magnitude, request)
    assert (model[0].weight.view(3, 2, 4).count_nonzero(2) == 2).all()


def test_a_shared_weight_counts_once() -> None:
    model = nn.Sequential(nn.Conv2d(10, 10, 1), nn.Conv2d(10, 10, 1), nn.Conv2d(10, 10, 1))
    model[1].weight = model[0].weight
    pruned(model, 0.25, "global")
    assert sum(zeros(model)[1:]) == 50


def test_channels_last_weights_are_pruned_alike(net: nn.Module) -> None:
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    pruned(net, 0.4, "global")
    pruned(other, 0.4, "global")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_chance_follows_the_seed(net: nn.Module) -> None:
    models = [copy.deepcopy(net) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2)):
        prune_by_scores(find_targets(model, Granularity("weight")).targets, by_chance, Request(0.5, seed=seed))
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    assert not torch.equal(models[0][0].weight, models[2][0].weight)


def test_scores_of_another_shape_are_refused(net: nn.Module) -> None:
    targets = find_targets(net, Granularity("weight")).targets
    with pytest.raises(PruneError) as caught:
        prune_by_scores(targets, lambda target, request: target.weight.flatten(), Request(0.5))
    assert str(caught.value) == (
        "the method gave scores of shape (216,) for 0.weight, whose shape is (8, 3, 3, 3)"
    )  # fmt: skip


def test_a_refusal_in_a_later_layer_leaves_the_earlier_ones(net: nn.Module) -> None:
    """With a global threshold all scores are seen before a weight is changed."""
    before = net[0].weight.clone()

    def negative_at_last(target: Target, request: Request) -> Tensor:
        return target.weight if target.name == "3.weight" else magnitude(target.weight)

    net[3].weight.data.fill_(-1)
    with pytest.raises(PruneError, match=r"scores of '3\.weight' are negative or NaN"):
        prune_by_scores(find_targets(net, Granularity("weight")).targets, negative_at_last, Request(0.5, "global"))
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("distribution", ["even", "Uniform", ""])
@pytest.mark.parametrize("grain", ["weight", "channel"])
def test_an_unknown_distribution_is_refused(net: nn.Module, distribution: str, grain: str) -> None:
    with pytest.raises(PruneError, match=f"^distribution must be .*uniform, global, erk.*lamp, got '{distribution}'$"):
        pruned(net, 0.5, distribution, grain)


def test_a_request_checks_its_sparsity() -> None:
    with pytest.raises(PruneError, match=r"^sparsity must be in \[0, 1\), got 1$"):
        Request(1)


@pytest.mark.parametrize(("grain", "sparsity"), [("2:4", 0.5), ("1:3", 0.67), ("1:3", 2 / 3), ("1:8", 0.875)])
def test_n_of_m_goes_with_its_own_sparsity(grain: str, sparsity: float) -> None:
    assert Request(sparsity, "uniform", Granularity.parse(grain)).sparsity == sparsity


def test_n_of_m_refuses_another_sparsity() -> None:
    with pytest.raises(PruneError) as caught:
        Request(0.3, "uniform", Granularity.parse("2:4"))
    assert str(caught.value) == (
        "granularity 2:4 drops exactly 0.5 of the weights; sparsity 0.3 does not go with it, 0.5 does"
    )


def test_n_of_m_refuses_another_distribution() -> None:
    with pytest.raises(PruneError) as caught:
        Request(0.5, "erk", Granularity.parse("2:4"))
    assert str(caught.value) == "granularity 2:4 is the same in every layer: distribution must be uniform, got 'erk'"


@pytest.mark.parametrize("distribution", NAMES)
def test_blocks_share_their_zeros_whatever_the_distribution(distribution: str) -> None:
    """Half of the weights of layers of 8 and 6 channels, in blocks of four: exactly, but for the shorter last block."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.Conv2d(8, 6, 3, bias=False))
    pruned(model, 0.5, distribution, "4x1")
    for layer in model:
        for block in (layer.weight == 0).split(4):
            assert torch.equal(block.all(0), block.any(0))
    assert sum(zeros(model)) == pytest.approx(0.5 * (288 + 432), abs=2 * 36)


def test_a_block_goes_by_its_sum() -> None:
    """Blocks of two filters: .1 + .3 and .2 + .4; 3 + 6 and 5 + 7. The three lowest of four go."""
    model = pruned(two_convs(), 0.75, "global", "2x1")
    assert model[0].weight.count_nonzero() == 0
    assert model[1].weight.flatten().tolist() == [0, -5, 0, 7]
