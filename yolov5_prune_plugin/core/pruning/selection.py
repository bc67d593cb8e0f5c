"""Exact selection of the k lowest scores over many tensors, without gathering or sorting them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError

_CHUNK = 1 << 21  # entries looked at in one go: keeps the working memory near 40 MB


def counts_below(chunks: Callable[[], Iterable[tuple[str, Tensor]]], count: int) -> dict[str, int]:
    """How many entries of each tensor are among the ``count`` lowest of all.

    Two passes of a radix selection on the bits of the float32 values: non-negative floats order as their bits do.

    Args:
        chunks: Called twice; yields (name, scores) with scores >= 0, any shape. A generator, so that scores of one
            tensor at a time need to exist.
        count: How many of all entries, 0 to their total.

    Returns:
        For each name, how many of its entries belong to the lowest; equal scores are taken in the order of the names.
        The counts add up to ``count``.

    Raises:
        PruneError: If a score is negative or NaN, or ``count`` exceeds the number of entries.
    """
    high: dict[str, Tensor] = {}
    for name, scores in chunks():
        high[name] = sum((torch.bincount(bits >> 16, minlength=1 << 15) for bits in _bits(name, scores)), _zeros(15))
    total = sum(high.values(), _zeros(15))
    if not 0 <= count <= int(total.sum()):
        raise PruneError(f"count must be from 0 to {int(total.sum())}, got {count}")
    if count == 0:
        return dict.fromkeys(high, 0)
    upper, left = _bucket(total, count)

    low: dict[str, Tensor] = {}
    for name, scores in chunks():
        low[name] = sum(
            (torch.bincount(bits[bits >> 16 == upper] & 0xFFFF, minlength=1 << 16) for bits in _bits(name, scores)),
            _zeros(16),
        )
    lower, ties_left = _bucket(sum(low.values(), _zeros(16)), left)

    counts = {}
    for name in high:
        ties = min(ties_left, int(low[name][lower]))
        ties_left -= ties
        counts[name] = int(high[name][:upper].sum()) + int(low[name][:lower].sum()) + ties
    return counts


def _bits(name: str, scores: Tensor) -> Iterable[Tensor]:
    """The float32 bits of the scores as integers that order alike, chunk by chunk, on the CPU."""
    for chunk in torch.split(scores.detach().reshape(-1), _CHUNK):
        bits = chunk.to("cpu", torch.float32).contiguous().view(torch.int32)
        if bits.numel() and (int(bits.min()) < 0 or int(bits.max()) > 0x7F800000):
            bits = bits.masked_fill(bits == -(1 << 31), 0)  # -0.0 is 0.0
            if int(bits.min()) < 0 or int(bits.max()) > 0x7F800000:
                raise PruneError(f"scores of {name!r} are negative or NaN; a global comparison needs scores >= 0")
        yield bits


def _bucket(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bucket that holds the ``count``-th lowest entry, and which one of the bucket it is (from 1)."""
    cumulated = histogram.cumsum(0)
    bucket = int(torch.searchsorted(cumulated, count))
    return bucket, count - (int(cumulated[bucket - 1]) if bucket else 0)


def _zeros(bits: int) -> Tensor:
    return torch.zeros(1 << bits, dtype=torch.int64)
