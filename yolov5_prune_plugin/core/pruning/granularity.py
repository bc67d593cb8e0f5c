"""Granularity: what is dropped together - single weights, whole output channels, or N of every M kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError


@dataclass(frozen=True)
class Granularity:
    """``weight``, ``channel`` or ``N:M`` (kept: N of every M neighbours along the input channels).

    Attributes:
        kind: ``weight``, ``channel`` or ``n:m``.
        n: Weights kept of each group; 0 unless kind is ``n:m``.
        m: Size of a group; 0 unless kind is ``n:m``.
    """

    kind: str
    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """Read ``weight``, ``channel`` or a pattern such as ``2:4``.

        Raises:
            PruneError: If the text is none of these, or not 0 < N < M.
        """
        if text in ("weight", "channel"):
            return cls(text)
        pattern = re.fullmatch(r"(\d+):(\d+)", text)
        if not pattern or not 0 < int(pattern[1]) < int(pattern[2]):
            raise PruneError(f"must be weight, channel or N:M with 0 < N < M such as 2:4, got {text!r}")
        return cls("n:m", int(pattern[1]), int(pattern[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.m else self.kind

    def refuses(self, weight: Tensor) -> str:
        """Why a weight can't be pruned at this granularity, or an empty string if it can."""
        if self.m and weight.shape[1] % self.m:
            return f"{weight.shape[1]} input channels are no multiple of {self.m}"
        if self.kind == "channel" and weight.shape[0] < 2:
            return "its only output channel must stay"
        return ""

    def units(self, weight: Tensor) -> int:
        """How many units a weight has: its output channels, or its entries."""
        return weight.shape[0] if self.kind == "channel" else weight.numel()

    def unit_scores(self, scores: Tensor) -> Tensor:
        """Scores of what goes together, flat: [numel] for weights, [output channels] (their means) for channels."""
        return scores.flatten(1).mean(1) if self.kind == "channel" else scores.flatten()

    def to_weights(self, kept: Tensor, weight: Tensor) -> Tensor:
        """Turn a flat mask of units into one of weights.

        Args:
            kept: Bool [units], True where kept.
            weight: [out, in / groups, height, width] or [out, in].

        Returns:
            Bool, shaped like the weight; it may share memory with ``kept``.
        """
        if self.kind == "channel":
            return kept.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
        return kept.view(weight.shape)


def nm_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep the n highest scores of every m neighbours along the input channels (dimension 1).

    Args:
        scores: [out, in, ...] with ``in`` a multiple of m.
        n: Weights kept of each group.
        m: Size of a group.

    Returns:
        Bool mask shaped like ``scores`` with exactly n of each m True; of equal scores the lower channel is kept.

    Reference:
        Mishra et al. 2021, https://arxiv.org/abs/2104.08378
    """
    groups = scores.detach().movedim(1, -1)
    shape = groups.shape
    groups = groups.reshape(-1, m)
    kept = groups.sort(dim=1, descending=True, stable=True).indices[:, :n]
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=scores.device).scatter_(1, kept, True)
    return mask.view(shape).movedim(-1, 1)
