"""A cheap stand-in for accuracy: how far a changed model's outputs are from the dense model's, without labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolov5_prune_plugin.core.outputs.detections import detections_in
from yolov5_prune_plugin.core.outputs.objective import tensors

EPS = 1e-12
PLAIN = "relative squared error of the outputs"
WEIGHTED = "relative squared error of the raw predictions, weighted by objectness"


def output_error(dense_outputs: Any, outputs: Any) -> float:
    """Relative squared error of outputs; 0 for equal ones, about 1 if nothing of the dense model's is left.

    For every float tensor y, with y0 of the dense model: ||y - y0||^2 / (||y0 - mean(y0)||^2 + eps); then their mean.

    The raw predictions of a detector are taken together as one tensor of rows, a row an anchor, weighted by
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
    dense, changed = detections_in(dense_outputs), detections_in(outputs)
    errors = []
    seen = frozenset[int]()
    if dense and changed:
        errors.append(_weighted(dense.rows, dense.objectness, changed.rows, changed.objectness))
        seen = dense.parts
    pairs = list(zip(tensors(dense_outputs), tensors(outputs)))
    if not pairs or len(pairs) != len(list(tensors(outputs))) or any(y0.shape != y.shape for y0, y in pairs):
        raise ValueError("outputs of the two models differ in structure or shape, or hold no float tensor")
    errors += [_plain(y0, y) for y0, y in pairs if id(y0) not in seen]
    return sum(errors) / len(errors)


def measure_of(outputs: Any) -> str:
    """Say what ``output_error`` is for outputs of this form."""
    return WEIGHTED if detections_in(outputs) else PLAIN


def _weighted(rows0: Tensor, weight0: Tensor, rows: Tensor, weight: Tensor) -> float:
    weight0 = weight0.unsqueeze(-1)
    weight = torch.maximum(weight0, weight.unsqueeze(-1))
    mean = (weight0 * rows0).sum((0, 1)) / (weight0.sum() + EPS)
    return float((weight * (rows - rows0).square()).sum() / ((weight0 * (rows0 - mean).square()).sum() + EPS))


def _plain(y0: Tensor, y: Tensor) -> float:
    y0, y = y0.float(), y.float()
    return float((y - y0).square().sum() / ((y0 - y0.mean()).square().sum() + EPS))
