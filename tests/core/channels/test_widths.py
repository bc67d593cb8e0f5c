"""Widths are noted for a model that was cut, and a fresh one gets them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("torch_pruning")
from tests.core.channels.networks import Chain, Plain
from yolov5_prune_plugin.core.channels.cut import cut
from yolov5_prune_plugin.core.channels.groups import find_channels
from yolov5_prune_plugin.core.channels.widths import differing, fit, merged, narrow, widths_left
from yolov5_prune_plugin.errors import PruneError

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_weights_say_how_wide_a_fresh_model_must_be() -> None:
    """Every kind of layer, cut or not; weights of another architecture are refused."""
    torch.manual_seed(0)
    net = Chain(["up", "ghost", "concat"]).eval()
    found = find_channels(net, X)
    cut(net, found.groups, {g.name: [0] for g in found.groups})
    again = Chain(["up", "ghost", "concat"]).eval()
    fit(again, net.state_dict())
    for ours, theirs in zip(again(X), net(X)):
        assert torch.equal(ours, theirs)
    for other in (Chain(["up", "ghost", "concat"], 4), Chain(["up"])):
        with pytest.raises(ValueError):
            fit(other, net.state_dict())


def test_widths_of_two_cuts() -> None:
    """What the second does not know of stays as the first left it."""
    net = Plain().eval()
    groups = find_channels(net, X).groups
    cut(net, groups, {"a.0": [0, 1, 2]})
    first = widths_left(net, groups)
    again = find_channels(net, X)
    assert again.kept["a.0"] == "it has a single channel"
    cut(net, again.groups, {"b.0": [0, 1]})
    both = merged(first, widths_left(net, again.groups))
    assert both["a.0"] == {"out": 1}
    assert both["b.0"] == {"in": 1, "out": 4}
    fresh = Plain().eval()
    narrow(fresh, both)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in net.parameters()]


def test_widths_of_a_cut_model_from_the_dense_one() -> None:
    """Only what is narrower is noted, with both sides; a depthwise convolution and a transposed one come back too."""
    net = Chain(["up", "ghost", "concat"]).eval()
    dense = copy.deepcopy(net)
    assert differing(net, dense) == {}
    found = find_channels(net, X)
    cut(net, found.groups, {g.name: [0] for g in found.groups})
    noted = differing(net, dense)
    assert any(isinstance(layer, nn.ConvTranspose2d) and name in noted for name, layer in net.named_modules())
    narrow(dense, noted)
    assert [p.shape for p in dense.parameters()] == [p.shape for p in net.parameters()]
    assert differing(net, dense) == {}


def test_widths_of_a_convolution_in_groups() -> None:
    """One with two filters for each input keeps a group for each input; what fits no groups is refused."""
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 3, groups=2))
    narrow(net, {"0": {"out": 6, "in": 3}})
    assert (net[0].groups, net[0].weight.shape, net[0].bias.shape) == (3, (6, 1, 3, 3), (6,))
    for widths, what in (({"0": {"out": 5}}, "widths name 0, a convolution in groups"),
                         ({"1": {"out": 4}}, "widths name 1, a convolution in groups"),
                         ({"1": {"out": 9}}, r"1 has 8 channels \(out\) where 9 are to be left"),
                         ({"2": {"out": 1}}, "there is no layer 2")):  # fmt: skip
        with pytest.raises(PruneError, match=what):
            narrow(net, widths)
