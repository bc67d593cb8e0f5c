"""Diagonal curvature of the outputs' distance by every weight: what removing a weight costs the detections."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.objective import probe, tensors
from yolov5_prune_plugin.core.outputs.watching import watched
from yolov5_prune_plugin.errors import PruneError


def diagonal(
    model: nn.Module,
    weights: Sequence[Tensor],
    images: Iterable[Tensor],
    seed: int,
    progress: Callable[[], None] = lambda: None,
    balance: Optional[Tensor] = None,
) -> list[Tensor]:
    """The diagonal of the Gauss-Newton Hessian of ``objective.distance``, averaged over images.

    With one random probe v an image, E[(dv/dw)^2] = h_ww: one backward pass each, and no labels. Setting w to zero then
    costs h_ww w^2 / 2 to second order (Optimal Brain Damage; the empirical Fisher of WoodFisher and oBERT with the
    dense model's own outputs as targets).

    Args:
        model: In eval mode, float32, its weights normal tensors (not of inference mode).
        weights: Of the model.
        images: Batches [1, 3, H, W].
        seed: Of the probes.
        progress: Called after each image.
        balance: What an object of each class counts, as for ``objective.distance``.

    Returns:
        A tensor like each weight, >= 0.

    Raises:
        PruneError: If outputs or gradients are not finite; of outputs the message names the first layer that gave some.
        ValueError: If there are no images, or the outputs do not depend on the weights.

    Reference:
        LeCun et al. 1989, Optimal Brain Damage; Martens 2014, https://arxiv.org/abs/1412.1193
    """
    generator = torch.Generator().manual_seed(seed)
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    before = [weight.requires_grad for weight in weights]
    count = 0
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for image in images:
            with torch.enable_grad():
                value = probe(model(image), generator, balance)
                if not value.requires_grad:
                    raise ValueError("the outputs do not depend on the weights")
                if not math.isfinite(value.detach()):
                    raise PruneError(f"outputs of {_first_not_finite(model, image)} on the calibration images are not"
                                     " finite (NaN or infinite)")  # fmt: skip
                gradients = torch.autograd.grad(value, list(weights), allow_unused=True)
            for total, gradient in zip(sums, gradients):
                if gradient is not None:  # a layer that the forward pass does not reach
                    total.addcmul_(gradient, gradient)
            count += 1
            progress()
    finally:
        for weight, required in zip(weights, before):
            weight.requires_grad_(required)
    if not count:
        raise ValueError("there are no images")
    if not all(bool(torch.isfinite(total).all()) for total in sums):
        raise PruneError("the model's gradients on the calibration images are not finite (NaN or infinite)")
    return [total / count for total in sums]


@torch.no_grad()
def _first_not_finite(model: nn.Module, image: Tensor) -> str:
    found: list[str] = []

    def note(name: str, _layer: nn.Module, _given: Any, output: Any) -> None:
        if not found and not all(bool(torch.isfinite(y).all()) for y in tensors(output)):
            found.append(name)

    with watched({name: module for name, module in model.named_modules() if name}, note):
        model(image)
    return found[0] if found else "the model"
