"""Channel groups are right, and cutting them leaves the outputs as ignoring them does."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("torch_pruning")
from tests.core.channels.networks import Block, Chain, Plain
from yolov5_prune_plugin.core.channels.cost import Cost
from yolov5_prune_plugin.core.channels.cut import cut, readers, silence
from yolov5_prune_plugin.core.channels.groups import find_channels
from yolov5_prune_plugin.errors import PruneError

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_groups_of_three_layers() -> None:
    """Each hidden layer goes with its BatchNorm and the layer that reads it; the last layer's outputs stay."""
    found = find_channels(Plain().eval(), X)
    assert {g.name: g.units for g in found.groups} == {"a.0": 4, "b.0": 6}
    assert {(m.layer, m.side) for m in found.groups[0].members} == {("a.0", "out"), ("a.1", "out"), ("b.0", "in")}
    assert found.kept == {"c": "its outputs are the model's outputs"}


def test_cutting_by_hand() -> None:
    """Shapes and weights that are left, and what they cost."""
    net = Plain().eval()
    dense = copy.deepcopy(net)
    found = find_channels(net, X)
    removed = {"a.0": [1, 3], "b.0": [0]}
    cost = Cost(dense, found.groups, X).of(removed)
    cut(net, found.groups, removed)
    assert [tuple(layer.weight.shape) for layer in (net.a[0], net.a[1], net.b[0], net.b[1], net.c)] == [
        (2, 3, 1, 1), (2,), (5, 2, 1, 1), (5,), (2, 5, 1, 1)]  # fmt: skip
    assert torch.equal(net.b[0].weight, dense.b[0].weight[1:][:, [0, 2]])
    assert torch.equal(net.a[1].running_mean, dense.a[1].running_mean[[0, 2]])
    assert (net.a[0].out_channels, net.b[0].in_channels, net.b[1].num_features) == (2, 2, 5)
    weights = 2 * 3 + 5 * 2 + 2 * 5
    assert cost == {"flops": 2 * weights * 16 * 16, "params": weights + 2 * 2 + 2 * 5 + 2}
    assert cost["params"] == sum(p.numel() for p in net.parameters())


def test_a_ghost_pair_is_one_unit_in_two_places() -> None:
    """Channel i of the first half and of its depthwise copy go together, also through the shortcut to the stem."""
    found = find_channels(Chain(["ghost residual"]).eval(), X)
    (group,) = found.groups
    assert (group.name, group.units) == ("stem.0", 4)
    stem = next(m for m in group.members if (m.layer, m.side) == ("stem.0", "out"))
    assert stem.channels == ((0, 4), (1, 5), (2, 6), (3, 7))


@settings(max_examples=25)
@given(st.lists(st.sampled_from(Block.KINDS), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_cut_net_gives_what_the_silenced_one_gives(kinds: list[str], rng: object) -> None:
    """For any mixture of joints and any choice of units; and the cost that was foretold is the cost."""
    torch.manual_seed(0)
    net = Chain(kinds).eval()
    found = find_channels(net, X)
    assert set(found.kept) == {"head", "other"}
    removed = {g.name: rng.sample(range(g.units), rng.randrange(g.units)) for g in found.groups}  # type: ignore
    silenced = copy.deepcopy(net)
    silence(silenced, found.groups, removed)
    cost = Cost(net, found.groups, X)
    expected = cost.of(removed)
    cut(net, found.groups, removed)
    for ours, theirs in zip(net(X), silenced(X)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert expected["params"] == pytest.approx(sum(p.numel() for p in net.parameters()))
    assert expected == pytest.approx(Cost(net, [], X).of({}))


class Hidden(nn.Module):
    """What tracing can't see: numbers that leave the graph, a reshape that mixes channels, a parameter in no layer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.b = how, nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.scale = nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.how == "detached":
            return self.b(y) + y.detach().mean()
        if self.how == "mixed":
            return self.b(y.flatten(1).roll(7, 1).view(y.shape))
        return self.b(y * self.scale)


@pytest.mark.parametrize("how", ["detached", "mixed", "scaled"])
def test_what_cannot_be_pruned_is_listed_with_its_reason(how: str) -> None:
    """Nothing is taken that would change the outputs behind our back; the model is as it was."""
    net = Hidden(how).eval()
    before = copy.deepcopy(net.state_dict())
    found = find_channels(net, X)
    assert not found.groups
    assert set(found.kept) == {"a", "b"}
    assert all(found.kept.values())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not net.training
    assert net.a.weight.requires_grad


def test_a_layer_used_twice_and_one_not_used_are_left_alone() -> None:
    """With other reasons."""

    class Twice(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(self.a(x)[:, :3])))

    net = Twice().eval()
    net.spare = nn.Conv2d(3, 3, 1)
    found = find_channels(net, X)
    assert found.kept["a.0"] == "the forward pass uses it more than once"
    assert found.kept["spare"] == "the forward pass does not reach it"
    assert [g.name for g in found.groups] == ["b.0"]


def test_a_model_that_does_not_trace() -> None:
    """It says so."""

    class Numbers(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return [super().forward(x).detach().sum().item()]  # type: ignore

    with pytest.raises(PruneError, match=r"cannot be traced, .*: it gives no float tensor"):
        find_channels(Numbers().eval(), X)
    with pytest.raises(PruneError, match=r"cannot be traced, .*expected input"):
        find_channels(Plain().eval(), X[:, :2])


def test_bad_cuts_are_refused() -> None:
    """All units of a group, and a group that is none."""
    net = Plain().eval()
    groups = find_channels(net, X).groups
    with pytest.raises(ValueError, match=r"all 4 units of a\.0"):
        cut(net, groups, {"a.0": [0, 1, 2, 3]})
    with pytest.raises(ValueError, match="called z"):
        cut(net, groups, {"z": [0]})
    assert readers(groups, {"a.0": [2]}) == {"b.0": [2]}


def test_parameters_stay_the_objects_they_are() -> None:
    """An optimizer that was made before goes on with the smaller ones."""
    net = Plain()
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    found = find_channels(net.eval(), X)
    cut(net, found.groups, {"a.0": [0]})
    net(X).sum().backward()
    optimizer.step()
    assert optimizer.state[net.b[0].weight]["exp_avg"].shape == (6, 3, 1, 1)
