"""Channel groups: which channels of which layers must go together, found by tracing and then tried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.channels.dependency_graph import DependentChannels, trace_dependencies
from yolov5_prune_plugin.core.channels.layers import KINDS, channel_counts, depthwise, ignore, weight_axis
from yolov5_prune_plugin.core.outputs.objective import tensors


@dataclass(frozen=True)
class Member:
    """A layer's part in a group.

    Attributes:
        layer: Name of the layer.
        side: ``out``: its outputs go (filters; a BatchNorm's channels); ``in``: the inputs that it reads go.
        channels: For each unit of the group, the layer's own channel indices that go with it.
    """

    layer: str
    side: str
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """A channel group: units that can be removed one by one; a unit is a set of channels that only go together.

    Attributes:
        name: Name of the first layer whose outputs are in it.
        units: Number of units.
        members: Layers that lose channels with each unit.
    """

    name: str
    units: int
    members: tuple[Member, ...]

    @property
    def outs(self) -> list[Member]:
        """Members whose output channels go."""
        return [member for member in self.members if member.side == "out"]

    @property
    def ins(self) -> list[Member]:
        """Members whose input channels go."""
        return [member for member in self.members if member.side == "in"]


@dataclass
class Channels:
    """All of a model's channel groups.

    Attributes:
        groups: Groups that can be pruned, in the order of the forward pass.
        kept: Layers whose outputs all stay, with the reason.
    """

    groups: list[Group] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def find_channels(model: nn.Module, example: Tensor, progress: Callable[[], None] = lambda: None) -> Channels:
    """Find a model's channel groups: trace it, and try every group out on it.

    A group is only used if the model's outputs do not depend on what its layers compute there once the layers that read
    it ignore it. Removing it relies on that, and a trace alone does not prove it.

    Args:
        model: In eval mode, float32, on the device of ``example``; its weights are as before afterwards.
        example: [1, 3, H, W].
        progress: Called once for each group.

    Raises:
        PruneError: If the model can't be traced, or torch-pruning is missing.
        ValueError: If the model gives no float tensor.

    Reference:
        Fang et al. 2023, DepGraph, https://arxiv.org/abs/2301.12900
    """
    found = Channels()
    traced = trace_dependencies(model, example)
    found.kept.update(traced.kept)
    layers = dict(model.named_modules())
    for dependent in traced.groups:
        progress()
        group = _group(dependent)
        reason = _refused(group, layers) or _tried(model, group, example, layers)
        if reason:
            found.kept.update(dict.fromkeys(dependent.roots, reason))
        else:
            found.groups.append(group)
    return found


def _group(dependent: DependentChannels) -> Group:
    """Roots that meet in one channel of a layer are one unit."""
    parent = list(range(dependent.channels))

    def top(root: int) -> int:
        while parent[root] != root:
            parent[root] = parent[parent[root]]
            root = parent[root]
        return root

    for pairs in dependent.members.values():
        first: dict[int, int] = {}
        for channel, root in sorted(pairs):
            parent[top(root)] = top(first.setdefault(channel, root))
    tops = sorted({top(root) for root in range(dependent.channels)})
    unit_of = {root: index for index, root in enumerate(tops)}
    members = []
    for (layer, side), pairs in dependent.members.items():
        lists: list[set[int]] = [set() for _ in tops]
        for channel, root in pairs:
            lists[unit_of[top(root)]].add(channel)
        members.append(Member(layer, side, tuple(tuple(sorted(channels)) for channels in lists)))
    return Group(dependent.roots[0], len(tops), tuple(members))


def _refused(group: Group, layers: Mapping[str, nn.Module]) -> str:
    for member in group.members:
        layer = layers[member.layer]
        if not isinstance(layer, KINDS):
            return f"its channels meet {member.layer}, a {type(layer).__name__}"
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.groups > 1 and not depthwise(layer):
            return f"its channels meet {member.layer}, a convolution in {layer.groups} groups"
    for member in group.outs:
        if {channel for channels in member.channels for channel in channels} != set(
            range(channel_counts(layers[member.layer])["out"])
        ):
            return f"it reaches only some of the channels of {member.layer}"
    if group.units < 2:
        return "it has a single channel"
    return "" if group.ins else "no layer with weights reads it"


@torch.no_grad()
def _tried(model: nn.Module, group: Group, example: Tensor, layers: Mapping[str, nn.Module]) -> str:
    """Half of the units: ignored by their readers, do the outputs still depend on them?"""
    units = list(range(0, group.units, 2))
    names = {member.layer for member in group.members}
    before = {name: {k: v.clone() for k, v in layers[name].state_dict().items()} for name in names}
    try:
        for member in group.ins:
            ignore(layers[member.layer], channels_of(member, units))
        one = _flat(model(example))
        generator = torch.Generator().manual_seed(0)
        for member in group.outs:
            _scramble(layers[member.layer], channels_of(member, units), generator)
        other = _flat(model(example))
    except RuntimeError as error:
        return f"the model does not run with it changed: {' '.join(str(error).split())[:80]}"
    finally:
        for name, state in before.items():
            layers[name].load_state_dict(state)
    if torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max().clamp_min(1e-6))):
        return ""
    return "its channels reach the outputs by a way that tracing does not see"


def _flat(given: Any) -> Tensor:
    found = [tensor.float().flatten() for tensor in tensors(given)]
    if not found:
        raise ValueError("the model gives no float tensor")
    return torch.cat(found).clone()


def channels_of(member: Member, units: Sequence[int]) -> list[int]:
    """List a layer's own channels that go with some units.

    Args:
        member: The layer's part in the group.
        units: Indices of units.

    Returns:
        Channel indices of the layer, ascending.
    """
    return sorted({channel for unit in units for channel in member.channels[unit]})


def _scramble(layer: nn.Module, channels: Sequence[int], generator: torch.Generator) -> None:
    for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        if tensor.dim() == 0 or name == "running_var":
            continue
        axis = weight_axis(layer, "out") if name == "weight" else 0
        index = torch.tensor(list(channels), device=tensor.device)
        noise = torch.rand(tensor.shape, generator=generator).to(tensor.device, tensor.dtype) + 0.5
        tensor.index_copy_(axis, index, (tensor * 2 + noise).index_select(axis, index))
