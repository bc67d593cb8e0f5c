"""Removes units of channel groups from a model for good: its layers become smaller."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolov5_prune_plugin.core.channels.groups import Group, channel_counts, channels_of, depthwise, ignore

Removed = Mapping[str, Sequence[int]]  # units that go, by the name of their group


@torch.no_grad()
def silence(model: nn.Module, groups: Sequence[Group], removed: Removed) -> None:
    """Set to zero what reads some units, with all shapes as they are; the outputs are those of the cut model.

    Args:
        model: Changed in place.
        groups: Channel groups of the model.
        removed: Units by name of their group.
    """
    layers = dict(model.named_modules())
    for group in groups:
        for member in group.ins:
            ignore(layers[member.layer], channels_of(member, removed.get(group.name, ())))


def readers(groups: Sequence[Group], removed: Removed) -> dict[str, list[int]]:
    """Find the layers that lose input channels.

    Args:
        groups: Channel groups of the model.
        removed: Units by name of their group.

    Returns:
        Input channels that go, ascending, by name of the layer; layers that lose none are left out.
    """
    lost: dict[str, set[int]] = {}
    for group in groups:
        for member in group.ins:
            lost.setdefault(member.layer, set()).update(channels_of(member, removed.get(group.name, ())))
    return {name: sorted(channels) for name, channels in lost.items() if channels}


@torch.no_grad()
def cut(model: nn.Module, groups: Sequence[Group], removed: Removed) -> None:
    """Remove units from every layer that holds a part of them.

    Args:
        model: Changed in place; its parameters stay the objects that they are, so that an optimizer which has not made
            a step yet may hold them.
        groups: Channel groups of the model from ``find_channels``; they describe the model as it was before.
        removed: Units by name of their group; not all units of a group.

    Raises:
        ValueError: If nothing of a group would be left, or a name is no group's.
    """
    unknown = set(removed) - {group.name for group in groups}
    if unknown:
        raise ValueError(f"no channel group is called {sorted(unknown)[0]}")
    layers = dict(model.named_modules())
    gone: dict[tuple[str, str], set[int]] = {}
    for group in groups:
        units = sorted(set(removed.get(group.name, ())))
        if len(units) >= group.units:
            raise ValueError(f"all {group.units} units of {group.name} would go")
        for member in group.members:
            gone.setdefault((member.layer, member.side), set()).update(channels_of(member, units))
    for (name, side), channels in gone.items():
        if channels:
            shrink(layers[name], side, channels)


def shrink(layer: nn.Module, side: str, gone: Collection[int]) -> None:
    """Remove channels from one layer.

    Args:
        layer: Changed in place; its parameters stay the objects that they are.
        side: ``out`` or ``in``; a depthwise convolution loses both.
        gone: Indices of the channels that go.
    """
    keep = [channel for channel in range(channel_counts(layer)[side]) if channel not in gone]
    if isinstance(layer, _BatchNorm):
        for name in ("weight", "bias", "running_mean", "running_var"):
            _select(layer, name, 0, keep)
        layer.num_features = len(keep)
    elif isinstance(layer, nn.Linear):
        _select(layer, "weight", 0 if side == "out" else 1, keep)
        setattr(layer, "out_features" if side == "out" else "in_features", len(keep))
    else:
        assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
        if depthwise(layer):
            _select(layer, "weight", 0, keep)
            layer.in_channels = layer.out_channels = layer.groups = len(keep)
        else:
            rows = (side == "out") != isinstance(layer, nn.ConvTranspose2d)
            _select(layer, "weight", 0 if rows else 1, keep)
            setattr(layer, "out_channels" if side == "out" else "in_channels", len(keep))
    if side == "out" and not isinstance(layer, _BatchNorm):
        _select(layer, "bias", 0, keep)


def _select(layer: nn.Module, name: str, axis: int, keep: list[int]) -> None:
    tensor = getattr(layer, name, None)
    if tensor is None:
        return
    assert isinstance(tensor, Tensor)
    smaller = tensor.detach().index_select(axis, torch.tensor(keep, device=tensor.device)).contiguous()
    if isinstance(tensor, nn.Parameter):
        tensor.data, tensor.grad = smaller, None
    else:
        setattr(layer, name, smaller)
