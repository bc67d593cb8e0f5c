"""A cheap stand-in for accuracy: how far a changed model's outputs are from the dense model's, without labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import torch
from torch import Tensor

EPS = 1e-12
PLAIN = "relative squared error of the outputs"
WEIGHTED = "relative squared error of the raw predictions, weighted by objectness"


def output_error(dense_outputs: Any, outputs: Any) -> float:
    """Relative squared error of outputs; 0 for equal ones, about 1 if nothing of the dense model's is left.

    For every float tensor y, with y0 of the dense model: ||y - y0||^2 / (||y0 - mean(y0)||^2 + eps); then their mean.

    The raw predictions of a YOLOv5 detector are taken together as one tensor of rows, a row an anchor, weighted by
    objectness: in the denominator by that of the dense model, in the numerator by the larger of both models', so that
    lost detections count and false ones too, and background hardly does.

    Args:
        dense_outputs: What the dense model gave: tensors in nested tuples, lists and dicts.
        outputs: The same of the changed model on the same batch.

    Returns:
        A number >= 0; infinite or NaN if the outputs are.

    Raises:
        ValueError: If the two differ in structure or shape, or have no float tensor.
    """
    dense, changed = predictions(dense_outputs), predictions(outputs)
    errors = []
    taken: set[int] = set()
    if dense and changed:
        errors.append(_weighted(*dense, *changed))
        taken = {id(tensor) for tensor in (dense_outputs[0], *dense_outputs[-1])}
    pairs = list(zip(_tensors(dense_outputs), _tensors(outputs)))
    if not pairs or len(pairs) != len(list(_tensors(outputs))) or any(y0.shape != y.shape for y0, y in pairs):
        raise ValueError("outputs of the two models differ in structure or shape, or hold no float tensor")
    errors += [_plain(y0, y) for y0, y in pairs if id(y0) not in taken]
    return sum(errors) / len(errors)


def predictions(outputs: Any) -> Optional[tuple[Tensor, Tensor]]:
    """What a YOLOv5 detector in eval mode returns: (predictions [B, N, C], ..., [maps [B, anchors, H, W, C], ...]).

    Returns:
        Raw rows [B, N, C] of all maps and their objectness [B, N]; None if the outputs are none of this form.
    """
    if not (isinstance(outputs, (tuple, list)) and len(outputs) > 1 and isinstance(outputs[-1], (tuple, list))):
        return None
    decoded, maps = outputs[0], outputs[-1]
    if not (isinstance(decoded, Tensor) and decoded.dim() == 3 and decoded.shape[2] > 5 and maps):
        return None
    if not all(isinstance(y, Tensor) and y.dim() == 5 and y.shape[4] == decoded.shape[2] for y in maps):
        return None
    rows = torch.cat([y.flatten(1, 3) for y in maps], 1).float()
    return (rows, decoded[..., 4].float()) if rows.shape == decoded.shape else None


def measure_of(outputs: Any) -> str:
    """What ``output_error`` is for outputs of this form, in words."""
    return WEIGHTED if predictions(outputs) else PLAIN


def _weighted(rows0: Tensor, weight0: Tensor, rows: Tensor, weight: Tensor) -> float:
    weight0 = weight0.unsqueeze(-1)
    weight = torch.maximum(weight0, weight.unsqueeze(-1))
    mean = (weight0 * rows0).sum((0, 1)) / (weight0.sum() + EPS)
    return float((weight * (rows - rows0).square()).sum() / ((weight0 * (rows0 - mean).square()).sum() + EPS))


def _plain(y0: Tensor, y: Tensor) -> float:
    y0, y = y0.float(), y.float()
    return float((y - y0).square().sum() / ((y0 - y0.mean()).square().sum() + EPS))


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, (tuple, list)):
        for item in outputs:
            yield from _tensors(item)
    elif isinstance(outputs, dict):
        for key in outputs:
            yield from _tensors(outputs[key])
