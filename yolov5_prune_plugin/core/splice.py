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
        and entries that changed. ``changes`` makes pruned and spliced of them.

    Raises:
        PruneError: If the thresholds are out of order.

    Reference:
        Guo et al. 2016, https://arxiv.org/abs/1608.04493
    """
    if not 0 <= lower <= upper:
        raise PruneError(f"thresholds must be 0 <= lower <= upper, got {lower} and {upper}")
    updated = (magnitude > lower).logical_and_(mask).logical_or_(magnitude > upper)
    counts = torch.stack([updated.sum(), (updated ^ mask).sum()])
    mask.copy_(updated)
    return counts


def changes(before: int, after: int, changed: int) -> tuple[int, int]:
    """How many were pruned and spliced, from how many were kept before and after, and how many changed."""
    return (changed + before - after) // 2, (changed + after - before) // 2


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
    count = int(flat.sum()) - kept
    if count:
        candidates = (flat if count > 0 else ~flat).nonzero().view(-1)
        order = torch.topk(values[candidates], abs(count), largest=count < 0).indices
        flat[candidates[order]] = count < 0
    return torch.tensor([kept, abs(count)], device=mask.device)
