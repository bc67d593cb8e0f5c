"""Which weights of a layer to keep, with what the others can make up for in mind: alternating directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS, PENALTY = 40, 1.0
RAMP = 0.75  # share of the iterations after which all goes that is to go

Pattern = Callable[[Tensor, float], Tensor]


def choose(
    weight: Tensor, hessian: Tensor, rows: Tensor, pattern: Pattern, damp: float = 0.01, iterations: int = ITERATIONS
) -> Tensor:
    """The mask of a layer by alternating directions: weights that fit its outputs, and weights that fit the pattern.

    Minimises the sum over rows of (x - w) H (x - w) with x = z and z on the pattern: x is solved for with a penalty on
    its distance to z; z is x plus the running sum u of their differences, with what the pattern drops set to zero. More
    and more is dropped over the first iterations, and any of it can come back. Columns are scaled to a diagonal of 1
    first, so that sizes of entries can be compared. Scores of single weights, in contrast, know nothing of neighbours
    that can stand in for each other.

    Args:
        weight: [groups, rows, K].
        hessian: E[x x^T] (or the covariance) of the layer's columns, [groups, K, K], float64.
        rows: How much a squared error of each output matters, [groups, rows], >= 0.
        pattern: (scores [groups, rows, K], share) -> bool mask of what is kept, the highest scores; of all that is to
            go, it drops this share, in (0, 1].
        damp: Share of the mean diagonal that is added to the diagonal, > 0.
        iterations: Fewer are quicker, and do for an estimate.

    Returns:
        Bool mask like ``weight``; ``reconstruct.solve`` finds the best weights on it.

    Reference:
        Boza 2024, Fast and Effective Weight Update for Pruned Large Language Models, https://arxiv.org/abs/2401.02938
    """
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    scale = diagonal + damp * diagonal.mean(1, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).sqrt().unsqueeze(1)  # [groups, 1, K]
    eye = torch.eye(hessian.shape[1], dtype=hessian.dtype, device=hessian.device)
    normal = hessian / (scale * scale.transpose(1, 2)) + damp * eye
    inverse = torch.linalg.inv(normal + PENALTY * eye).float()
    full = weight.detach().float() * scale.float()
    goal = full @ normal.float()
    matters = rows.float().unsqueeze(2)

    x, u = full, torch.zeros_like(full)
    mask = torch.ones_like(full, dtype=torch.bool)
    for step in range(iterations):
        sum_ = x + u
        mask = pattern(matters * sum_.square(), min(1.0, (step + 1) / (RAMP * iterations)))
        z = sum_ * mask
        u = sum_ - z
        x = (goal + PENALTY * (z - u)) @ inverse
    return mask
