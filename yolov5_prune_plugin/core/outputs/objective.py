"""What a pruned model should keep of the dense one's outputs, as a loss and as its curvature; no labels are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.detections import Detections, detections_in

BOX = 0.5  # weight of a squared difference of raw box coordinates beside the divergences in nats
EPS = 1e-12
SPARE = 0.1  # of the mean number of objects of a class


def distance(dense: Any, outputs: Any, balance: Optional[Tensor] = None) -> Tensor:
    """How far outputs are from the dense model's; 0 for equal ones, differentiable in ``outputs``.

    For detections: the Bernoulli divergence KL(dense || pruned) of objectness at every anchor, and, weighted by
    the dense model's objectness, that of the classes and half the squared difference of the raw box (and of mask
    coefficients); summed and divided by the sum of objectness, roughly the number of objects. For other tensors, such
    as prototypes of masks or logits of a classifier: the squared difference relative to their variance.

    Args:
        dense: What the dense model gave in eval mode; no gradient flows into it.
        outputs: The same of the pruned model.
        balance: What an object of each class counts, as ``balance_of`` has it; None counts all alike.
    """
    found0, found = detections_in(dense), detections_in(outputs)
    total, seen = torch.zeros(()), frozenset[int]()
    if found0 and found:
        seen = found0.parts
        total = _divergence(found0, found.rows, balance)
    pairs = [(y0, y) for y0, y in zip(tensors(dense), tensors(outputs)) if id(y0) not in seen]
    for y0, y in pairs:
        total = total.to(y.device) + (y.float() - y0.float()).square().mean() / (y0.float().var() + EPS)
    return total


def probe(outputs: Any, generator: torch.Generator, balance: Optional[Tensor] = None) -> Tensor:
    """A random scalar v whose gradient satisfies E[grad v grad v^T] = the Gauss-Newton Hessian of ``distance`` at 0.

    v = sum of signs * sqrt(curvature of the output) * output, with independent random signs (Hutchinson).

    Args:
        outputs: Of the dense model in eval mode, with gradients.
        generator: Draws the signs, on the CPU.
        balance: As for ``distance``.
    """
    found = detections_in(outputs)
    seen = frozenset[int]()
    total = torch.zeros(())
    if found:
        seen, y, column = found.parts, found.rows, found.objectness_column
        p = y.detach().sigmoid()
        weight = p[..., column : column + 1]
        curvature = p * (1 - p) * weight
        curvature[..., column : column + 1] = weight * (1 - weight)
        curvature[..., found.not_logits()] = 2 * BOX * weight
        if balance is not None:
            curvature = curvature * _counting(found, balance)
        total = (_signs(y, generator) * curvature.sqrt() * y).sum() / (weight.sum() + 1).sqrt()
    for y in tensors(outputs):
        if id(y) not in seen and y.requires_grad:
            scale = (2 / (y.numel() * (y.detach().float().var() + EPS))).sqrt()
            total = total.to(y.device) + (_signs(y, generator) * y.float()).sum() * scale
    return total


def class_totals(outputs: Any) -> Optional[Tensor]:
    """How many objects of each class a model finds, by its own objectness and class probabilities, [classes].

    None if it is no detector, or has one class.
    """
    found = detections_in(outputs)
    if not found:
        return None
    p = found.rows.detach().sigmoid()[..., _classes(found)]
    return (p * found.objectness.detach().unsqueeze(-1)).sum((0, 1)) if p.shape[-1] > 1 else None


def balance_of(totals: Tensor) -> Tensor:
    """What an object of each class counts so that classes count alike, as they do in mAP; 1 in the mean over objects.

    Args:
        totals: How many objects of each class there are; a tenth of their mean is added to each, so that classes that
            are hardly there count less than others.
    """
    smooth = totals + SPARE * totals.mean() + EPS
    return totals.sum() / ((totals / smooth).sum() + EPS) / smooth


def features_of(model: nn.Module) -> Optional[nn.Module]:
    """The head, whose inputs are the features worth keeping: the last block of the model's chain of blocks."""
    module = model
    while len(children := list(module.children())) == 1:
        module = children[0]
    return children[-1] if children else None


class Features:
    """Catches the inputs of a module during forward passes, as a context."""

    def __init__(self, module: Optional[nn.Module]) -> None:
        self.module, self.last = module, list[Tensor]()

    def __enter__(self) -> Features:
        self._hook = self.module.register_forward_pre_hook(self._note) if self.module else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook:
            self._hook.remove()

    def _note(self, _: nn.Module, inputs: Any) -> None:
        self.last = list(tensors(inputs))  # a list of its own: upstream's head replaces the items of its argument


def tensors(outputs: Any) -> Iterator[Tensor]:
    """The float tensors in nested tuples, lists and dicts."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, (tuple, list)):
        for item in outputs:
            yield from tensors(item)
    elif isinstance(outputs, dict):
        for item in outputs.values():
            yield from tensors(item)


def _classes(found: Detections) -> Tensor:
    """Columns that are logits of classes."""
    columns = ~found.not_logits()
    columns[found.objectness_column] = False
    return columns


def _counting(found: Detections, balance: Tensor) -> Tensor:
    """What each row counts, by its class as far as that is known, [B, N, 1]."""
    p = found.rows.detach().sigmoid()[..., _classes(found)] + EPS
    return (p @ balance.to(p)).unsqueeze(-1) / p.sum(-1, keepdim=True)


def _divergence(dense: Detections, rows: Tensor, balance: Optional[Tensor]) -> Tensor:
    rows0, column = dense.rows.detach(), dense.objectness_column
    p = rows0.sigmoid()
    weight = p[..., column : column + 1]
    divergence = F.binary_cross_entropy_with_logits(rows, p, reduction="none") - _entropy(rows0, p)
    square = BOX * (rows - rows0).square()
    each = torch.where(dense.not_logits(), square, divergence)
    factor = weight.expand_as(each).clone()
    factor[..., column] = 1
    if balance is not None:
        factor = factor * _counting(dense, balance)
    return (each * factor).sum() / (weight.sum() + 1)


def _entropy(logits: Tensor, p: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, p, reduction="none")


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return (signs * 2 - 1).to(like.device, torch.float32)
