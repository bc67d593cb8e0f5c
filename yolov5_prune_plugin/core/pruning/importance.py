"""Importance: one score per weight; the higher, the longer it is kept."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """Absolute value of each weight.

    Args:
        weight: Any shape, floating point.

    Returns:
        Scores of the same shape, >= 0.

    Reference:
        Han et al. 2015, https://arxiv.org/abs/1506.02626
    """
    return weight.detach().abs()


def random(weight: Tensor, name: str, seed: int) -> Tensor:
    """Uniform noise that depends on the seed and the tensor's name only, not on the order of the layers.

    Args:
        weight: Gives shape and device; its values are not used.
        name: Parameter name.
        seed: Any integer.

    Returns:
        Scores of the same shape in [0, 1), float32. They are drawn on the CPU, so that every device gets the same.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def lamp(scores: Tensor) -> Tensor:
    """Layer-adaptive magnitude: the square of a score over the sum of all squares at least as large in its layer.

    Args:
        scores: Scores of one layer, any shape, >= 0.

    Returns:
        LAMP scores in [0, 1], same shape, float32; their order within the layer is that of ``scores``, and the largest
        score of a layer gets 1, so no layer is ever emptied.

    Reference:
        Lee et al. 2021, https://arxiv.org/abs/2010.07611
    """
    squares = scores.detach().flatten().double().square()
    ordered, order = squares.sort(descending=True)
    # train.py allows no sum on a GPU whose order may differ from one time to the next
    sums = ordered.cpu().cumsum(0).to(ordered.device)
    share = ordered / sums.clamp_min_(torch.finfo(torch.float64).tiny)
    return torch.empty_like(share).scatter_(0, order, share).float().view(scores.shape)
