"""Removes units of channel groups from a model for good: its layers become smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from yolov5_prune_plugin.core.channels.groups import Group, channels_of
from yolov5_prune_plugin.core.channels.layers import ignore, shrink

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
