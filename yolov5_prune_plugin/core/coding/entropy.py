"""Streams of symbols below 256, each by the coder that makes it shortest."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolov5_prune_plugin.core.coding import ans, huffman
from yolov5_prune_plugin.core.coding.cursor import Cursor, Payload, number
from yolov5_prune_plugin.errors import PruneError

CODERS = ("constant", "raw", "huffman", "ans", "lzma", "packed lzma")  # by the byte that says which
CHOICES = ("best", "huffman", "ans")  # what may be asked for; the first three of CODERS are there with each
PIECE = 1 << 16  # symbols that are decoded at once
WINDOW = 1 << 22  # bytes that a match may reach back
_PROBE = 1 << 15  # symbols of a sample that shows whether matches are worth a search
_SMALL = 1 << 16  # symbols up to which no sample is needed

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Stream:
    """A stream as it stands in a file.

    Attributes:
        coder: One of ``CODERS``.
        count: Symbols in it.
        alphabet: All are below it.
        payload: What the coder reads.
        size: Bytes of coder, length and payload.
    """

    coder: str
    count: int
    alphabet: int
    payload: Payload
    size: int

    def decode(self) -> Bytes:
        """Decode the symbols, [count].

        Raises:
            PruneError: If the payload is not what the coder writes.
        """
        found, at = np.empty(self.count, np.uint8), 0
        for piece in self.pieces():
            found[at : at + len(piece)] = piece
            at += len(piece)
        return found

    def pieces(self) -> Iterator[Bytes]:
        """Decode the symbols piece by piece, in memory that does not grow with ``count``.

        Raises:
            PruneError: If the payload is not what the coder writes.
        """
        for some in self._decoded():
            if self.alphabet < 256 and int(some.max()) >= self.alphabet:
                raise PruneError(f"has a symbol {int(some.max())} where all are below {self.alphabet}")
            for start in range(0, len(some), PIECE):
                yield some[start : start + PIECE]

    def _decoded(self) -> Iterator[Bytes]:
        data, bits = self.payload.load(), width(self.alphabet)
        if self.coder == "constant":
            if len(data) != 1:
                raise PruneError(f"has a constant of {len(data)} bytes")
            return (np.full(count, data[0], np.uint8) for count in _counts(self.count))
        if self.coder == "raw":
            if len(data) != -(-self.count * bits // 8):
                raise PruneError(f"has {len(data):,} bytes where {self.count:,} symbols of {bits} bits are announced")
            step = PIECE * bits // 8
            parts = (data[index * step : (index + 1) * step] for index in range(-(-self.count // PIECE)))
            return (_unpacked(part, count, bits) for part, count in zip(parts, _counts(self.count)))
        if self.coder == "huffman":
            return huffman.pieces(data, self.count)
        if self.coder == "ans":
            return ans.pieces(data, self.count, PIECE)
        bits = 8 if self.coder == "lzma" else bits
        return _unmatched(data, self.count, bits)


class Reader:
    """Takes the symbols of a stream in order."""

    def __init__(self, stream: Stream) -> None:
        self._pieces = stream.pieces()
        self._left = np.zeros(0, np.uint8)

    def take(self, count: int) -> Bytes:
        """Decode the next symbols, [count].

        Raises:
            PruneError: If the payload is not what the coder writes, or there are not so many.
        """
        parts = [self._left]
        missing = count - len(self._left)
        while missing > 0:
            piece = next(self._pieces, None)
            if piece is None:
                raise PruneError("has fewer symbols than its positions ask for")
            parts.append(piece)
            missing -= len(piece)
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._left = whole[count:]
        return whole[:count]


def width(alphabet: int) -> int:
    """Compute the bits of a symbol when all symbols of an alphabet have the same number."""
    return max(1, (alphabet - 1).bit_length())


def entropy(counts: NDArray[np.int64]) -> float:
    """Compute Shannon's bound, in bytes, of a stream with these counts of its symbols."""
    some = counts[counts > 0]
    return float(-(some * np.log2(some / max(1, some.sum()))).sum()) / 8


def write(symbols: Bytes, alphabet: int, coder: str = "best") -> bytes:
    """Code a stream.

    Args:
        symbols: [count]; nothing is written if it is empty.
        alphabet: All are below it; at most 256.
        coder: One of ``CHOICES``: the shortest of all, or without the coders that are not named.

    Returns:
        A byte that says the coder, the number of bytes that follow, and those.
    """
    if not len(symbols):
        return b""
    counts = np.bincount(symbols, minlength=1)
    if int(counts[-1]) == len(symbols):
        return _framed("constant", bytes([len(counts) - 1]))
    found = {"raw": -(-len(symbols) * width(alphabet) // 8)}
    lengths = huffman.code_lengths(counts)
    if coder != "ans":
        found["huffman"] = huffman.encoded_bytes(counts, lengths)
    if coder != "huffman":
        form, frequencies, size = ans.choose_table(counts)
        found["ans"] = int(size)
    matched: dict[str, bytes] = {}
    if coder == "best" and _repeats(symbols, min(found.values())):
        matched = {"lzma": _lzma(symbols)}
        if width(alphabet) < 8:
            matched["packed lzma"] = _lzma(np.frombuffer(_packed(symbols, width(alphabet)), np.uint8))
        found.update({name: len(payload) for name, payload in matched.items()})
    best = min(found, key=lambda name: (found[name], CODERS.index(name)))
    if best in matched:
        return _framed(best, matched[best])
    if best == "huffman":
        return _framed(best, huffman.encode(symbols, lengths))
    if best == "ans":
        return _framed(best, ans.encode(symbols, form, frequencies))
    return _framed(best, _packed(symbols, width(alphabet)))


def read(cursor: Cursor, count: int, alphabet: int) -> Stream:
    """Find a stream's parts without decoding it.

    Args:
        cursor: At its first byte; left behind its last.
        count: Number of symbols in it, at least 1.
        alphabet: All must be below it.

    Raises:
        PruneError: If it ends early, or its coder is none of ours.
    """
    before = cursor.left
    coder = cursor.byte()
    if coder >= len(CODERS):
        raise PruneError(f"has a stream of coder {coder}; this version knows 0 to {len(CODERS) - 1}")
    size, most = cursor.number(), -(-count * width(alphabet) // 8)
    if size > most + count // 1024 + 64:
        raise PruneError(f"has a stream of {size:,} bytes whose symbols are {most:,} bytes as they are")
    payload = cursor.payload(size)
    return Stream(CODERS[coder], count, alphabet, payload, before - cursor.left)


def _framed(coder: str, payload: bytes) -> bytes:
    return bytes([CODERS.index(coder)]) + number(len(payload)) + payload


def _repeats(symbols: Bytes, size: int) -> bool:
    """Whether a search for repetitions may win: always tried on short streams, on samples of long ones."""
    if len(symbols) <= _SMALL:
        return True
    step = len(symbols) // 4
    for start in range(step // 2, len(symbols) - _PROBE, step):
        if len(_lzma(symbols[start : start + _PROBE])) < 0.97 * size * _PROBE / len(symbols):
            return True
    return False


def _packed(symbols: Bytes, bits: int) -> bytes:
    if bits == 8:
        return symbols.tobytes()
    return np.packbits(np.unpackbits(symbols[:, None], axis=1)[:, 8 - bits :]).tobytes()


def _counts(count: int) -> Iterator[int]:
    """Symbols of each piece."""
    return (min(PIECE, count - start) for start in range(0, count, PIECE))


def _unpacked(data: memoryview, count: int, bits: int) -> Bytes:
    if bits == 8:
        return np.frombuffer(data, np.uint8)
    flags = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits)
    whole = np.zeros((count, 8), np.uint8)
    whole[:, 8 - bits :] = flags
    return np.packbits(whole, axis=1)[:, 0]


def _filters(window: int) -> list[dict[str, int]]:
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": window, "lc": 0, "lp": 0, "pb": 0}]


def _lzma(symbols: Bytes) -> bytes:
    window = min(WINDOW, max(1 << 12, 1 << len(symbols).bit_length()))  # a larger one takes long to set up
    return lzma.compress(symbols.tobytes(), lzma.FORMAT_RAW, filters=_filters(window))


def _unmatched(data: memoryview, count: int, bits: int) -> Iterator[Bytes]:
    size = -(-count * bits // 8)
    machine = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(min(WINDOW, max(1 << 12, size))))
    wrong = PruneError(f"has an LZMA2 stream of other than {size:,} bytes")
    try:
        for symbols in _counts(count):
            part = bytearray()
            while missing := -(-symbols * bits // 8) - len(part):
                more = b"" if machine.eof else machine.decompress(data, missing)
                if not more:
                    raise wrong
                data = memoryview(b"")  # the machine has what it has not used
                part += more
            yield _unpacked(memoryview(part), symbols, bits)
        if not machine.eof and machine.decompress(b"", 1):
            raise wrong
    except lzma.LZMAError as error:
        raise PruneError(f"has a stream that is no LZMA2 ({error})") from None
    if machine.unused_data:
        raise wrong
