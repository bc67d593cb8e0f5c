"""Small models whose outputs have the forms of YOLOv5's: detections, detections with masks, logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Detector(nn.Module):
    """One convolution as head: an anchor, ``classes`` classes and ``masks`` mask coefficients at each place."""

    def __init__(self, classes: int = 2, masks: int = 0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.classes, self.masks = classes, masks
        self.body = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Tanh())
        self.head = nn.Conv2d(4, 5 + classes + masks, 1)

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        raw = self.head(features).permute(0, 2, 3, 1).unsqueeze(1)  # [B, anchors, H, W, C]
        return self.decoded(raw, features)

    def decoded(self, raw: Tensor, prototypes: Tensor) -> Any:
        """As Detect and Segment give it in eval mode: (decoded, maps) or (decoded, prototypes, maps)."""
        rows = raw.flatten(1, 3)
        last = 5 + self.classes
        box = rows[..., :4].sigmoid() * 8  # boxes are sizes in pixels
        decoded = torch.cat([box, rows[..., 4:last].sigmoid(), rows[..., last:]], 2)
        return (decoded, prototypes, [raw]) if self.masks else (decoded, [raw])


class Classifier(nn.Sequential):
    """Three logits."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))


def rows(*anchors: list[float]) -> Any:
    """A detector's outputs from raw rows: x, y, w, h, objectness, a logit for each class."""
    raw = torch.tensor(anchors, dtype=torch.float32).view(1, 1, 1, len(anchors), -1)
    return Detector(raw.shape[-1] - 5).decoded(raw.requires_grad_(), torch.zeros(0))
