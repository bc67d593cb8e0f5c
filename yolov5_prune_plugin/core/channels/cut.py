"""Removes units of channel groups from a model for good: its layers become smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolov5_prune_plugin.core.channels.groups import KINDS, Group, channels_of, depthwise, ignore, outputs

Removed = Mapping[str, Sequence[int]]  # units that go, by the name of their group
Widths = dict[str, dict[str, int]]  # channels that there are, by layer and side (``out``, ``in``)


@torch.no_grad()
def silence(model: nn.Module, groups: Sequence[Group], removed: Removed) -> None:
    """Let nothing read the units any more, with all shapes as they are; the outputs are those of the cut model.

    Args:
        model: Changed in place.
        groups: Of the model.
        removed: What goes.
    """
    layers = dict(model.named_modules())
    for group in groups:
        for member in group.ins:
            ignore(layers[member.layer], channels_of(member, removed.get(group.name, ())))


def readers(groups: Sequence[Group], removed: Removed) -> dict[str, list[int]]:
    """By name of a layer, the input channels that it loses; layers that lose none are left out."""
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
        groups: Of the model, from ``find_channels``; they describe the model as it was before.
        removed: Units by name of the group; not all units of a group.

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
            _shrink(layers[name], side, channels)


def widths_left(model: nn.Module, groups: Sequence[Group]) -> Widths:
    """How many channels the layers of some groups have."""
    layers, found = dict(model.named_modules()), Widths()
    for group in groups:
        for member in group.members:
            layer = layers[member.layer]
            number = outputs(layer) if member.side == "out" else _inputs(layer)
            found.setdefault(member.layer, {})[member.side] = number
    return found


def merged(widths: Mapping[str, Mapping[str, int]], later: Mapping[str, Mapping[str, int]]) -> Widths:
    """Widths after a second cut: its own, and those of the first where it says nothing."""
    return {name: {**widths.get(name, {}), **later.get(name, {})} for name in {**widths, **later}}


def narrow(model: nn.Module, widths: Mapping[str, Mapping[str, int]]) -> None:
    """Give layers the widths that ``widths_left`` noted; which channels stay does not matter: weights come after it.

    Args:
        model: Freshly built, in the dense shapes; changed in place.
        widths: By layer and side.

    Raises:
        ValueError: If the model has no such layers, or they are narrower already.
    """
    layers = dict(model.named_modules())
    for name, sides in widths.items():
        layer = layers.get(name)
        if layer is None:
            raise ValueError(f"there is no layer {name}")
        for side, left in sides.items():
            there = outputs(layer) if side == "out" else _inputs(layer)
            if not 0 < left <= there:
                raise ValueError(f"{name} has {there} channels ({side}) where {left} are to be left")
            if left < there:
                _shrink(layer, side, set(range(left, there)))


def fit(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the layers the widths that weights of this architecture have, and load them.

    Args:
        model: Freshly built; changed in place.
        weights: A state dict of it, in the same widths or with channels removed.

    Raises:
        ValueError: If they are of another architecture.
    """
    for name, layer in model.named_modules():
        weight = weights.get(f"{name}.weight")
        if weight is None or not isinstance(layer, KINDS):
            continue
        sides = {"out": weight.shape[0]}
        if isinstance(layer, nn.ConvTranspose2d):
            sides = {"in": weight.shape[0], "out": weight.shape[1]}
        elif not isinstance(layer, _BatchNorm) and not depthwise(layer):
            sides["in"] = weight.shape[1] * (layer.groups if isinstance(layer, nn.Conv2d) else 1)
        narrow(model, {name: sides})
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


def _shrink(layer: nn.Module, side: str, gone: set[int]) -> None:
    whole = outputs(layer) if side == "out" else _inputs(layer)
    keep = [channel for channel in range(whole) if channel not in gone]
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


def _inputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)), type(layer)
    return layer.in_channels


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
