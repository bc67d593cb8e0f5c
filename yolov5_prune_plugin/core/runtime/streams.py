"""Weights as kernels read them: the non-zeros of each block of output channels, (values, offset) in a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Streams:
    """Non-zeros of a range of output channels.

    Attributes:
        data: [entries, block + 1] float32; the last column is the offset, an int32.
        counts: [input blocks, groups] int32: entries of each group.
        starts: [input blocks, chunks] int64: bytes before the first entry of each chunk.
        chunk_groups: [chunks + 1] int64: first group of each chunk.
    """

    data: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    chunk_groups: np.ndarray


def entries(weight: np.ndarray, block: int) -> int:
    """How many (values, offset) a stream of blocks has; channels after the last whole block count one by one.

    Args:
        weight: [out, in / groups, height, width].
        block: Output channels that share their zeros.
    """
    kept = weight.reshape(len(weight), -1) != 0
    whole = len(kept) // block * block
    return int(kept[:whole].reshape(-1, block, kept.shape[1]).any(1).sum()) + int(kept[whole:].sum())


def build(
    weight: np.ndarray, offsets: np.ndarray, shifts: np.ndarray, block: int, cuts: list[int], chunks: int
) -> Streams:  # fmt: skip
    """Write streams.

    Args:
        weight: [out, taps] of the channels, a multiple of ``block`` of them; taps in the order of ``offsets``.
        offsets: [taps] floats from a pixel to what the tap reads.
        shifts: [out] floats that are added to the offsets: where the input channels of a group begin.
        block: Output channels that share their zeros.
        cuts: Taps at which blocks of input channels begin, from 0, and the number of taps.
        chunks: Parts of the output channels that can be computed apart.
    """
    groups = len(weight) // block
    grouped = weight.reshape(groups, block, -1)
    kept = (grouped != 0).any(1)
    pieces, counts = [], np.zeros((len(cuts) - 1, groups), np.int32)
    for i, (start, stop) in enumerate(zip(cuts, cuts[1:])):
        rows, taps = np.nonzero(kept[:, start:stop])
        piece = np.empty((len(rows), block + 1), np.float32)
        piece[:, :block] = grouped[rows, :, taps + start]
        piece[:, block] = (offsets[taps + start] + shifts[rows * block]).astype(np.int32).view(np.float32)
        pieces.append(piece)
        counts[i] = np.bincount(rows, minlength=groups)
    chunk_groups = np.linspace(0, groups, chunks + 1).round().astype(np.int64)
    before = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])[:-1].reshape(counts.shape)
    starts = before[:, chunk_groups[:-1]] * (4 * (block + 1))
    return Streams(np.concatenate(pieces), counts, starts, chunk_groups)
