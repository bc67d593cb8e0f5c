"""Distillation: a dense model's outputs are soft targets for a smaller one, beside the labels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from yolov5_prune_plugin.core.outputs.detections import detections_in
from yolov5_prune_plugin.core.outputs.objective import distance, tensors


def distillation(dense: Any, outputs: Any) -> Tensor:
    """How far outputs in training are from the dense model's; a mean over images, 0 for equal ones.

    For detections it is ``objective.distance``: the divergence of objectness at every anchor, and, weighted by
    the dense model's objectness, that of the classes and half the squared difference of the raw box, over the sum of
    objectness; for prototypes of masks their squared difference relative to its variance. For the logits of a
    classifier it is the divergence KL(dense || slim) of the softmax.

    Args:
        dense: What the dense model gives in eval mode; no gradient flows into it.
        outputs: What the slim model gives in training mode, with gradients: raw maps, a list of them, or logits.

    Raises:
        ValueError: If the two are not of one kind.

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531; for detectors, with objectness as the weight: Mehta,
        Ozturk 2018, https://arxiv.org/abs/1805.06361
    """
    found = detections_in(dense)
    if found:
        return distance(dense, found.arranged_like(outputs))
    given = list(tensors(outputs))
    targets = list(tensors(dense))
    if len(given) != 1 or len(targets) != 1 or given[0].shape != targets[0].shape or given[0].dim() != 2:
        raise ValueError(
            "outputs that are neither YOLOv5 detections nor the logits of a classifier have no soft targets"
        )
    log_slim, log_dense = (F.log_softmax(y.float(), 1) for y in (given[0], targets[0].detach()))
    return F.kl_div(log_slim, log_dense, reduction="batchmean", log_target=True)
