"""Multiplications: how often each weight of a layer is used for one image of a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.modes import evaluating
from yolov5_prune_plugin.core.outputs.watching import watched

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def count_uses(layers: Mapping[str, nn.Module], model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often each weight of a layer is used in a forward pass of one image.

    Args:
        layers: Of the model, by any name; Conv2d, ConvTranspose2d or Linear.
        model: In eval mode.
        example: [1, channels, H, W].

    Returns:
        By name; layers that the forward pass does not reach are left out.
    """
    found: dict[str, int] = {}

    def note(name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            used = output.numel() // output.shape[-1]
        else:  # a transposed convolution uses each weight once for each position of its input
            used = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output)[0, 0].numel()
        found[name] = found.get(name, 0) + used

    with torch.no_grad(), watched(layers, note):
        model(example)
    return found


def input_channels(model: nn.Module) -> int:
    """How many channels its images have: what its yaml says, or what its first convolution reads, or 3.

    The yaml goes first, as the first convolution may read rearranged pixels (Focus: four times as many channels).
    """
    yaml = getattr(model, "yaml", None)
    if isinstance(yaml, dict) and type(yaml.get("ch")) is int:
        return int(yaml["ch"])
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)


def uses_at(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """How often each weight is used for one image of a size; a multiplication each.

    Args:
        model: Of images, in any mode; it is left as it is.
        height: Of the image, in pixels.
        width: The same.

    Returns:
        By name of the parameter.
    """
    layers = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    some = next(model.parameters())
    with evaluating(model):
        return count_uses(
            layers, model, torch.zeros(1, input_channels(model), height, width, device=some.device, dtype=some.dtype)
        )
