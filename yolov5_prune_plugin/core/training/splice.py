"""One mask update of Dynamic Network Surgery: prune what is small, splice back what has grown."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError


def splice(mask: Tensor, magnitude: Tensor, lower: float, upper: float) -> Tensor:
    """Update a mask in place: |W| <= lower is dropped, |W| > upper is kept, between them nothing changes.

    Args:
        mask: Bool, True where kept.
        magnitude: |W| of the dense weights, of the same shape, finite.
        lower: Lower threshold, >= 0.
        upper: Upper threshold, >= lower.

    Returns:
        Two whole numbers as a tensor on the mask's device, so that many layers cost one transfer: weights kept now,
        and how many of them came back.

    Raises:
        PruneError: If the thresholds are out of order.

    Reference:
        Guo et al. 2016, https://arxiv.org/abs/1608.04493
    """
    if not 0 <= lower <= upper:
        raise PruneError(f"thresholds must be 0 <= lower <= upper, got {lower} and {upper}")
    over = magnitude > lower
    left = mask.logical_and_(over).count_nonzero()
    kept = mask.logical_or_(torch.gt(magnitude, upper, out=over)).count_nonzero()
    return torch.stack([kept, kept - left])


def trim(mask: Tensor, magnitude: Tensor, kept: int) -> Tensor:
    """Keep exactly so many, in place: the smallest kept weights go, or the largest dropped ones come back.

    Args:
        mask: Bool, True where kept.
        magnitude: |W| of the dense weights, of the same shape, finite.
        kept: How many to keep, 0 to numel.

    Returns:
        As ``splice``.

    Raises:
        PruneError: If ``kept`` is out of range.
    """
    if not 0 <= kept <= mask.numel():
        raise PruneError(f"kept must be from 0 to {mask.numel()}, got {kept}")
    flat, values = mask.view(-1), magnitude.reshape(-1)
    count = int(flat.count_nonzero()) - kept
    if count:
        candidates = (flat if count > 0 else ~flat).nonzero().view(-1)
        order = torch.topk(values[candidates], abs(count), largest=count < 0).indices
        flat[candidates[order]] = count < 0
    return torch.tensor([kept, max(-count, 0)], device=mask.device)
