"""Granularity: what is dropped together - weights, blocks of output channels, channels, or N of every M kept."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError


@dataclass(frozen=True)
class Granularity:
    """``weight``, ``channel``, ``Ax1`` or ``N:M``.

    ``Ax1`` is a block: A neighbouring output channels share their zeros at one input channel and kernel position.
    Blocks never reach over two groups of a grouped convolution, whose output channels read other inputs; the last block
    of a layer, or of such a group, may be shorter. ``N:M`` keeps N of every M neighbours along the input channels.

    Attributes:
        kind: ``weight``, ``channel``, ``block`` or ``n:m``.
        n: Weights kept of each group; 0 unless kind is ``n:m``.
        m: Size of a group; 0 unless kind is ``n:m``.
        rows: Output channels in a block; 0 unless kind is ``block``.
    """

    kind: str
    n: int = 0
    m: int = 0
    rows: int = 0

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """Read ``weight``, ``channel``, a block such as ``4x1``, or a pattern such as ``2:4``.

        Raises:
            PruneError: If the text is none of these.
        """
        if text in ("weight", "channel"):
            return cls(text)
        block = re.fullmatch(r"(\d{1,4})x1", text)
        if block and int(block[1]) > 1:
            return cls("block", rows=int(block[1]))
        pattern = re.fullmatch(r"(\d+):(\d+)", text)
        if not pattern or not 0 < int(pattern[1]) < int(pattern[2]):
            raise PruneError("must be weight, channel, Ax1 with A > 1 such as 4x1 (blocks of output channels), or N:M"
                             f" with 0 < N < M such as 2:4, got {text!r}")  # fmt: skip
        return cls("n:m", int(pattern[1]), int(pattern[2]))

    def __str__(self) -> str:
        if self.rows:
            return f"{self.rows}x1"
        return f"{self.n}:{self.m}" if self.m else self.kind

    def on_the_way(self, share: float) -> Granularity:
        """The pattern when so much of what it drops is gone: 2:4 by way of 3:4; anything else stays as it is.

        Args:
            share: In [0, 1].
        """
        if not self.m:
            return self
        return Granularity(self.kind, max(self.n, self.m - round(share * (self.m - self.n))), self.m)

    def refuses(self, weight: Tensor, groups: int = 1) -> str:
        """Say why a weight can't be pruned at this granularity; an empty string if it can.

        Args:
            weight: [out, in / groups, height, width] or [out, in].
            groups: Of a grouped convolution.
        """
        if self.m and weight.shape[1] % self.m:
            return f"{weight.shape[1]} input channels are no multiple of {self.m}"
        if self.kind == "channel" and weight.shape[0] < 2:
            return "its only output channel must stay"
        if self.rows and weight.shape[0] // groups < 2:
            return "no two of its output channels read the same inputs, so they form no block"
        return ""

    def units(self, weight: Tensor, groups: int = 1) -> int:
        """Count the units of a weight: its output channels, blocks or entries.

        Args:
            weight: [out, in / groups, height, width] or [out, in].
            groups: Of a grouped convolution.
        """
        if self.rows:
            each = math.ceil(weight.shape[0] // groups / self.rows)
            return groups * each * math.prod(weight.shape[1:])
        return weight.shape[0] if self.kind == "channel" else weight.numel()

    def unit_scores(self, scores: Tensor, groups: int = 1) -> Tensor:
        """Scores of what goes together, flat.

        Args:
            scores: Shaped like the weight.
            groups: Of a grouped convolution.

        Returns:
            [units]: those of weights as they are, sums over blocks, means over channels.
        """
        if self.rows:
            return self._blocks(scores, groups).sum(2).flatten()
        return scores.flatten(1).mean(1) if self.kind == "channel" else scores.flatten()

    def unit_sizes(self, weight: Tensor, groups: int = 1) -> Tensor:
        """Count the weights in each unit, [units].

        Args:
            weight: [out, in / groups, height, width] or [out, in].
            groups: Of a grouped convolution.
        """
        if self.kind == "channel":
            return torch.full((len(weight),), math.prod(weight.shape[1:]), device=weight.device)
        ones = torch.ones(weight.shape, device=weight.device)
        return self.unit_scores(ones, groups).long()

    def to_weights(self, kept: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        """Turn a flat mask of units into one of weights.

        Args:
            kept: Bool [units], True where kept.
            weight: [out, in / groups, height, width] or [out, in].
            groups: Of a grouped convolution.

        Returns:
            Bool, shaped like the weight; it may share memory with ``kept``.
        """
        if self.rows:
            out, columns = weight.shape[0] // groups, math.prod(weight.shape[1:])
            blocks = kept.view(groups, -1, 1, columns).expand(-1, -1, self.rows, -1)
            return blocks.reshape(groups, -1, columns)[:, :out].reshape(weight.shape)
        if self.kind == "channel":
            return kept.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
        return kept.view(weight.shape)

    def kept_units(self, mask: Tensor, groups: int = 1) -> Tensor:
        """Turn a mask of weights into a flat one of units: a unit is kept if one of its weights is.

        Args:
            mask: Bool, shaped like the weight.
            groups: Of a grouped convolution.
        """
        if self.rows:
            return self._blocks(mask, groups).any(2).flatten()
        return mask.flatten(1).any(1) if self.kind == "channel" else mask.flatten()

    def _blocks(self, values: Tensor, groups: int) -> Tensor:
        """[groups, blocks, rows, columns], the last block filled up with zeros."""
        by_group = values.detach().reshape(groups, values.shape[0] // groups, -1)
        lacking = -by_group.shape[1] % self.rows
        if lacking:
            by_group = F.pad(by_group, (0, 0, 0, lacking))
        return by_group.view(groups, -1, self.rows, by_group.shape[2])


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
