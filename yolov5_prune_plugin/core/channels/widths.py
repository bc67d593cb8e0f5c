"""Widths: how many channels each layer has, noted for a model that is cut, and given to one that is freshly built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolov5_prune_plugin.core.channels.groups import Group
from yolov5_prune_plugin.core.channels.layers import KINDS, channel_counts, depthwise, shrink
from yolov5_prune_plugin.errors import PruneError

Widths = dict[str, dict[str, int]]  # channels that there are, by layer and side (``out``, ``in``)


def widths_left(model: nn.Module, groups: Sequence[Group]) -> Widths:
    """Count the channels that the layers of some groups have.

    Args:
        model: Cut or not.
        groups: Channel groups of it, before or after the cut.

    Returns:
        Channels by layer, and by each side that is in a group.
    """
    layers, found = dict(model.named_modules()), Widths()
    for group in groups:
        for member in group.members:
            found.setdefault(member.layer, {})[member.side] = channel_counts(layers[member.layer])[member.side]
    return found


def differing(model: nn.Module, dense: nn.Module) -> Widths:
    """Count the channels of the layers that are not as wide as in another model of the same architecture.

    Args:
        model: The model in question, such as a slim one.
        dense: The model to compare it with.

    Returns:
        Channels by layer, of both sides.

    Raises:
        PruneError: If ``model`` has a layer that ``dense`` does not have.
    """
    there, found = dict(dense.named_modules()), Widths()
    for name, layer in model.named_modules():
        counts = channel_counts(layer)
        if counts and name not in there:
            raise PruneError(f"has a layer {name} that its own architecture does not have")
        if counts and counts != channel_counts(there[name]):
            found[name] = counts
    return found


def merged(widths: Mapping[str, Mapping[str, int]], later: Mapping[str, Mapping[str, int]]) -> Widths:
    """Combine the widths of two cuts in a row.

    Args:
        widths: After the first cut.
        later: After the second; where it says nothing, the first counts.
    """
    return {name: {**widths.get(name, {}), **later.get(name, {})} for name in {**widths, **later}}


def narrow(model: nn.Module, widths: Mapping[str, Mapping[str, int]]) -> None:
    """Give layers the widths that were noted; which channels stay does not matter: weights are loaded after it.

    Args:
        model: Freshly built, in the dense shapes; changed in place, its parameters stay the objects that they are.
        widths: Channels by layer and side.

    Raises:
        PruneError: If the model has no such layers, they are narrower already, or are convolutions in groups that
            cannot have these widths.
    """
    layers = dict(model.named_modules())
    for name, sides in widths.items():
        layer = layers.get(name)
        there = channel_counts(layer) if layer is not None else {}
        if layer is None or not there or not set(sides) <= set(there):
            raise PruneError(f"there is no layer {name}")
        for side, left in sides.items():
            if not 0 < left <= there[side]:
                raise PruneError(f"{name} has {there[side]} channels ({side}) where {left} are to be left")
        if _grouped(layer) and not (depthwise(layer) and len(set(sides.values())) == 1):
            _narrow_grouped(layer, name, there, {**there, **sides})
            continue
        for side, left in sides.items():
            now = channel_counts(layer)[side]  # a depthwise convolution has lost both sides with the first
            if left < now:
                shrink(layer, side, range(left, now))


def fit(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the layers the widths that weights of this architecture have, and load them.

    Args:
        model: Freshly built; changed in place.
        weights: A state dict of it, in the same widths or with channels removed.

    Raises:
        PruneError: If they are of another architecture.
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
        raise PruneError(" ".join(str(error).split())[:200]) from None


def _grouped(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.groups > 1


def _narrow_grouped(layer: nn.Module, name: str, there: Mapping[str, int], left: Mapping[str, int]) -> None:
    """Narrow a convolution with a group for each channel of one side; its values are lost."""
    assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    if there == left:
        return
    out, read = left["out"], left["in"]
    if layer.groups not in there.values() or (out % read and read % out):
        raise PruneError(f"widths name {name}, a convolution in groups")
    layer.out_channels, layer.in_channels, layer.groups = out, read, min(out, read)
    first, second = (read, out) if isinstance(layer, nn.ConvTranspose2d) else (out, read)
    for parameter, shape in ((layer.weight, (first, second // layer.groups, *layer.weight.shape[2:])),
                             (layer.bias, (out,))):  # fmt: skip
        if parameter is not None:
            parameter.data, parameter.grad = parameter.new_zeros(shape), None
