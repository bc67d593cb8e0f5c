"""Layers with channels: how many, on which axes of which tensors, and how one loses or ignores some of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


def depthwise(layer: nn.Module) -> bool:
    """Whether each output channel of a convolution reads one input channel, its own."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def channel_counts(layer: nn.Module) -> dict[str, int]:
    """Count a layer's channels by side.

    Returns:
        ``out`` and ``in`` of a convolution or Linear, ``out`` of a BatchNorm; empty for any other module.
    """
    if isinstance(layer, nn.Linear):
        return {"out": layer.out_features, "in": layer.in_features}
    if isinstance(layer, _BatchNorm):
        return {"out": layer.num_features}
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return {"out": layer.out_channels, "in": layer.in_channels}
    return {}


def weight_axis(layer: nn.Module, side: str) -> int:
    """Find the axis of a layer's weight that a side's channels are on.

    Args:
        layer: A convolution, Linear or BatchNorm.
        side: ``out`` or ``in``; both are one axis in a depthwise convolution.
    """
    if isinstance(layer, _BatchNorm) or depthwise(layer):
        return 0
    return 0 if (side == "out") != isinstance(layer, nn.ConvTranspose2d) else 1


def channel_axes(layer: nn.Module, side: str) -> list[tuple[str, int]]:
    """List a layer's tensors that have the channels of a side.

    Args:
        layer: A convolution, Linear or BatchNorm.
        side: ``out`` or ``in``; both are the same in a depthwise convolution.

    Returns:
        Names of parameters and buffers that are there, each with the axis of the channels.
    """
    names = ["weight"]
    if isinstance(layer, _BatchNorm):
        names += ["bias", "running_mean", "running_var"]
    elif side == "out" or depthwise(layer):
        names.append("bias")
    axes = {"weight": weight_axis(layer, side)}
    return [(name, axes.get(name, 0)) for name in names if getattr(layer, name, None) is not None]


@torch.no_grad()
def ignore(layer: nn.Module, channels: Sequence[int]) -> None:
    """Set the weights of some input channels to 0.

    Args:
        layer: A convolution or Linear, changed in place.
        channels: Indices of its input channels.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if weight_axis(layer, "in") == 0:
        weight[list(channels)] = 0
    else:
        weight[:, list(channels)] = 0


@torch.no_grad()
def shrink(layer: nn.Module, side: str, gone: Collection[int]) -> None:
    """Remove channels from a layer.

    Args:
        layer: Changed in place; its parameters stay the objects that they are.
        side: ``out`` or ``in``; a depthwise convolution loses both.
        gone: Indices of the channels that go.
    """
    keep = [channel for channel in range(channel_counts(layer)[side]) if channel not in gone]
    for name, axis in channel_axes(layer, side):
        tensor = getattr(layer, name)
        smaller = tensor.detach().index_select(axis, torch.tensor(keep, device=tensor.device)).contiguous()
        if isinstance(tensor, nn.Parameter):
            tensor.data, tensor.grad = smaller, None
        else:
            setattr(layer, name, smaller)
    if isinstance(layer, _BatchNorm):
        layer.num_features = len(keep)
    elif isinstance(layer, nn.Linear):
        setattr(layer, f"{side}_features", len(keep))
    else:
        assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
        if depthwise(layer):
            layer.in_channels = layer.out_channels = layer.groups = len(keep)
        else:
            setattr(layer, f"{side}_channels", len(keep))
