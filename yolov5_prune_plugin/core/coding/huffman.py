"""Canonical Huffman codes of symbols below 256, in blocks that are decoded side by side."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov5_prune_plugin.errors import PruneError

LONGEST = 15  # bits of a code, so that a length fits into half a byte
BLOCK = 4096  # symbols
_MOST_BLOCKS, _MOST_BYTES = 512, 1 << 20  # that are decoded side by side
_SIDE_BY_SIDE = 96  # blocks from which on numpy over all of them is faster than one after the other

Bytes = NDArray[np.uint8]


def code_lengths(counts: NDArray[np.int64]) -> Bytes:
    """Find the code lengths that make a stream shortest, none above ``LONGEST``.

    Args:
        counts: How often each symbol occurs, [n], n <= 256; at least two occur.

    Returns:
        Bits of each symbol's code, [n]; 0 for symbols that do not occur.

    Reference:
        Huffman 1952, https://doi.org/10.1109/JRPROC.1952.273898; with a limit: package-merge, Larmore and Hirschberg
        1990, https://doi.org/10.1145/79147.79150
    """
    used = [(int(count), index) for index, count in enumerate(counts) if count]
    lengths = np.zeros(len(counts), np.uint8)
    heap: list[tuple[int, int, tuple[int, ...]]] = [(count, index, (index,)) for count, index in used]
    heapq.heapify(heap)
    while len(heap) > 1:
        (first, tie, left), (second, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[[*left, *right]] += 1
        heapq.heappush(heap, (first + second, tie, left + right))
    return lengths if int(lengths.max()) <= LONGEST else _limited(used, len(counts))


def _limited(used: list[tuple[int, int]], alphabet: int) -> Bytes:
    leaves = [(count, (index,)) for count, index in used]
    packages: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(LONGEST):
        merged = sorted([*leaves, *packages])
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(merged[::2], merged[1::2])]
    lengths = np.zeros(alphabet, np.uint8)
    for _, members in packages[: len(used) - 1]:
        np.add.at(lengths, list(members), 1)
    return lengths


def codes(lengths: Bytes) -> NDArray[np.uint32]:
    """Assign canonical codes, [n]: shorter ones first, of one length by symbol, each one more than the last."""
    found, code, before = np.zeros(len(lengths), np.uint32), 0, 0
    for index in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[index])
        if length:
            code <<= length - before
            found[index], code, before = code, code + 1, length
    return found


def encoded_bytes(counts: NDArray[np.int64], lengths: Bytes) -> int:
    """Compute the bytes that ``encode`` writes, less what the ends of blocks are rounded up by.

    Args:
        counts: How often each symbol occurs, [n].
        lengths: Bits of each symbol's code, [n].
    """
    total = int(counts.sum())
    return 1 + (len(lengths) + 1) // 2 + 2 * _blocks(total) + (int((counts * lengths).sum()) + 7) // 8


def encode(symbols: Bytes, lengths: Bytes) -> bytes:
    """Write the table of lengths, the bytes of each block if there are several, and the blocks.

    Args:
        symbols: [count], each below n.
        lengths: Bits of each symbol's code, [n], from ``code_lengths``.
    """
    table = np.concatenate([lengths, np.zeros(len(lengths) % 2, np.uint8)])
    words, sizes, blocks = codes(lengths), [], []
    for start in range(0, len(symbols), BLOCK * 64):
        part = symbols[start : start + BLOCK * 64]
        bits = lengths[part].astype(np.int64)
        ends = np.cumsum(bits)
        borders = [0, *ends[BLOCK - 1 :: BLOCK].tolist()]
        if borders[-1] != ends[-1]:
            borders.append(int(ends[-1]))
        last = np.repeat(ends.astype(np.int32), bits)  # of the code that a bit is in
        shift = (last - np.arange(1, int(ends[-1]) + 1)).astype(np.uint32)
        stream = (np.repeat(words[part], bits) >> shift & 1).astype(np.uint8)
        for begin, end in zip(borders, borders[1:]):
            block = np.packbits(stream[begin:end]).tobytes()
            sizes.append(len(block))
            blocks.append(block)
    head: bytes = bytes([len(lengths) - 1]) + (table[::2] << 4 | table[1::2]).tobytes()
    announced: bytes = np.array(sizes, "<u2").tobytes() if len(sizes) > 1 else b""
    return head + announced + b"".join(blocks)


def pieces(data: memoryview, count: int) -> Iterator[Bytes]:
    """Read what ``encode`` wrote.

    Args:
        data: The whole stream.
        count: Number of symbols in it, at least 1.

    Yields:
        Symbols, those of some blocks at a time.

    Raises:
        PruneError: If it is not such a stream.
    """
    alphabet = data[0] + 1 if len(data) else 0
    head = 1 + (alphabet + 1) // 2
    nibbles = np.frombuffer(data[1:head], np.uint8)
    lengths = np.stack([nibbles >> 4, nibbles & 15], 1).reshape(-1)[:alphabet]
    if len(lengths) < alphabet or int((1 << LONGEST >> lengths[lengths > 0].astype(np.int64)).sum()) != 1 << LONGEST:
        raise PruneError("has a Huffman table that is no complete code")
    blocks = _blocks(count)
    start = head + 2 * blocks
    sizes = np.frombuffer(data[head:start], "<u2") if blocks else np.array([len(data) - head])
    if len(sizes) != max(blocks, 1) or start + int(sizes.sum(dtype=np.int64)) != len(data):
        raise PruneError("has Huffman blocks of other sizes than announced")
    symbol, step, width = _lookup(lengths)
    body, at, index, short = data[start:], 0, 0, (symbol.tolist(), step.tolist())
    while index < len(sizes):
        group = _group(sizes[index : len(sizes) - 1])
        if group > _SIDE_BY_SIDE:
            some = sizes[index : index + group].astype(np.int64)
            total, out = int(some.sum()), np.empty((group, BLOCK), np.uint8)
            _together(body[at : at + total], np.cumsum(some) - some, some, symbol, step, width, out)
        else:
            group, total = 1, int(sizes[index])
            out = np.empty((1, min(BLOCK, count - index * BLOCK)), np.uint8)
            _alone(body[at : at + total], *short, width, out[0])
        yield out.reshape(-1)
        at, index = at + total, index + group


def _group(sizes: NDArray[Any]) -> int:
    """How many whole blocks are decoded side by side: as many as a bounded memory holds."""
    ends = np.cumsum(sizes[:_MOST_BLOCKS], dtype=np.int64)
    return int(np.searchsorted(ends, _MOST_BYTES, side="right"))


def _blocks(count: int) -> int:
    """Blocks whose sizes are written: none if there is one."""
    return -(-count // BLOCK) if count > BLOCK else 0


def _lookup(lengths: Bytes) -> tuple[Bytes, Bytes, int]:
    """By the next bits of the stream: the symbol, and its bits."""
    width = int(lengths.max())
    used = [index for index in np.lexsort((np.arange(len(lengths)), lengths)) if lengths[index]]
    repeats = [1 << width - int(lengths[index]) for index in used]
    symbol = np.repeat(np.array(used, np.uint8), repeats)
    return symbol, lengths[symbol], width


def _alone(data: memoryview, symbol: list[int], step: list[int], width: int, out: Bytes) -> None:
    found, held, bits, at, mask = [], 0, 0, 0, (1 << width) - 1
    padded = bytes(data) + bytes(LONGEST * len(out) // 8 + 4)
    for _ in range(len(out)):
        while bits < width:
            held, bits, at = (held << 8 | padded[at]) & 0xFFFFFFFF, bits + 8, at + 1
        index = held >> bits - width & mask
        found.append(symbol[index])
        bits -= step[index]
    if not 0 <= 8 * (len(data) - at) + bits < 8:
        raise PruneError("has a Huffman block of another length than its symbols")
    out[:] = found


def _together(
    data: memoryview, begins: NDArray[np.int64], sizes: NDArray[np.int64], symbol: Bytes, step: Bytes, width: int,
    out: Bytes,
) -> None:  # fmt: skip
    """The same for many blocks of ``BLOCK`` symbols: one symbol of each at a time."""
    padded = np.frombuffer(bytes(data) + bytes(LONGEST * BLOCK // 8 + 4), np.uint8)
    words: NDArray[Any] = np.lib.stride_tricks.sliding_window_view(padded, 3)
    windows = words[:, 0].astype(np.uint32)
    for column in (1, 2):
        windows <<= np.uint32(8)
        windows |= words[:, column]
    at, mask = begins * 8, (1 << width) - 1
    columns = np.empty(out.shape[::-1], np.uint8)
    step_of = step.astype(np.int64)
    for index in range(BLOCK):
        key = windows[at >> 3] >> (24 - width - (at & 7)).astype(np.uint32) & mask
        columns[index] = symbol[key]
        at += step_of[key]
    spare = (begins + sizes) * 8 - at
    if int(spare.min()) < 0 or int(spare.max()) > 7:
        raise PruneError("has a Huffman block of another length than its symbols")
    out[:] = columns.T
