"""How YOLOv5's heads lay out their outputs: the one place that knows. Importing it has core read them."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from yolov5_prune_plugin.core.outputs.detections import Detections, register_reader
from yolov5_prune_plugin.core.outputs.objective import tensors

BOX, OBJECTNESS = 4, 4  # columns of the box come first, then objectness, then classes
MAP = 5  # dimensions of a raw map: [B, anchors, H, W, 5 + classes]


class HeadOutputs(Detections):
    """Of Detect and Segment in eval mode: (decoded [B, N, C], ..., [maps [B, anchors, H, W, C], ...])."""

    objectness_column = OBJECTNESS

    def __init__(self, outputs: Any, rows: Tensor) -> None:
        self.rows, self.objectness = rows, outputs[0][..., OBJECTNESS].float()
        self.parts = frozenset(id(tensor) for tensor in (outputs[0], *outputs[-1]))
        self._outputs = outputs

    def not_logits(self) -> Tensor:
        """The box, and what decoding leaves as it is (mask coefficients)."""
        decoded = self._outputs[0].detach().float()
        columns: Tensor = (decoded == self.rows.detach()).flatten(0, 1).all(0)
        columns[:BOX] = True
        return columns

    def arranged_like(self, outputs: Any) -> Any:
        """In training mode the decoded rows are missing."""
        given, dense = list(tensors(outputs)), self._outputs
        maps = [tensor for tensor in given if tensor.dim() == MAP]
        rest = [tensor for tensor in given if tensor.dim() != MAP]
        shapes = [[tuple(tensor.shape) for tensor in tensors(one)] for one in (dense[1:], (rest, maps))]
        if shapes[0] != shapes[1]:
            raise ValueError(f"outputs of shapes {shapes[1]} have no soft targets among {shapes[0]}")
        return (dense[0], *rest, maps)


def read(outputs: Any) -> Optional[HeadOutputs]:
    """Read the outputs of a detector or segmenter in eval mode; None if they are of another form."""
    if not (isinstance(outputs, (tuple, list)) and len(outputs) > 1 and isinstance(outputs[-1], (tuple, list))):
        return None
    decoded, maps = outputs[0], outputs[-1]
    if not (isinstance(decoded, Tensor) and decoded.dim() == 3 and decoded.shape[2] > 5 and maps):
        return None
    if not all(isinstance(y, Tensor) and y.dim() == MAP and y.shape[4] == decoded.shape[2] for y in maps):
        return None
    rows = torch.cat([y.flatten(1, 3) for y in maps], 1).float()
    return HeadOutputs(outputs, rows) if rows.shape == decoded.shape else None


register_reader(read)
