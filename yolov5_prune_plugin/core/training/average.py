"""An average of the weights that obeys their masks: upstream keeps the EMA, not the weights, in its checkpoints."""

from __future__ import annotations

import torch
from torch import nn

from yolov5_prune_plugin.core.training.masks import MaskState


@torch.no_grad()
def bring_back(state: MaskState, average: nn.Module) -> None:
    """Start what was spliced in at its weight, not at zero, and undo rounding; before the average is updated.

    Args:
        state: The weights.
        average: A model with the same parameter names, changed in place.
    """
    averages = dict(average.named_parameters())
    for name in state.masks:
        state.unround_average(name, averages[name].data)
    for name in state.returned:
        p = averages[name].data
        new = state.masks[name] & (p == 0)
        p.copy_(torch.where(new, state.parameters[name].detach().to(p.dtype), p))
    state.returned.clear()


@torch.no_grad()
def constrain_average(state: MaskState, average: nn.Module) -> None:
    """Make the average obey the masks, with exact zeros; after it is updated.

    Args:
        state: The weights.
        average: A model with the same parameter names, changed in place.
    """
    averages = dict(average.named_parameters())
    for name in state.masks:
        state.constrain_average(name, averages[name].data)
