"""Asymmetric numeral systems with a static table: symbols below 256 at almost their entropy, by `constriction`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from yolov5_prune_plugin.errors import PruneError

BITS = 24  # probabilities are whole numbers that add up to 1 << BITS
_NARROW, _WIDE = 4, 5  # bits of an exponent in the table
_MANTISSAS = range(8)
_SPARE = 1 << 22  # bytes for what else is allocated before the next question

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]


def probabilities(frequencies: Counts) -> Counts:
    """Scale frequencies to whole probabilities, in whole numbers only, so that every machine gets the same.

    Each symbol gets 1, the rest goes by frequency, and what rounding leaves goes to the first of the most frequent.

    Args:
        frequencies: [n], >= 0, below 1 << 31, not all 0; 2 <= n <= 256.

    Returns:
        [n], >= 1, of sum 1 << 24.
    """
    free = (1 << BITS) - len(frequencies)
    found = 1 + frequencies * free // int(frequencies.sum())
    found[int(frequencies.argmax())] += (1 << BITS) - int(found.sum())
    return found


def choose_table(counts: Counts) -> tuple[int, Counts, float]:
    """Find the table with which a stream and the table itself are shortest together.

    Args:
        counts: How often each symbol occurs, [n].

    Returns:
        The byte that says the table's form, the frequencies in it, [n], and bytes of stream and table.
    """
    best: tuple[int, Counts, float] = (0, counts, float("inf"))
    for wide in (0, 1):
        for mantissa in _MANTISSAS:
            frequencies = _rounded(counts, (1 << (_WIDE if wide else _NARROW)) - 1, mantissa)
            spent = -(counts * np.log2(probabilities(frequencies) / (1 << BITS))).sum()
            bits = _table_bits(frequencies, _WIDE if wide else _NARROW, mantissa)
            size = 2 + (bits + 7) // 8 + 4 + float(spent) / 8
            if size < best[2]:
                best = mantissa | wide << 3, frequencies, size
    return best


def encode(symbols: Bytes, form: int, frequencies: Counts) -> bytes:
    """Code symbols: the table, and the coder's words.

    Args:
        symbols: [count], each below n.
        form: Mantissa bits of the table, and in bit 3 whether its exponents are wide.
        frequencies: Frequencies in the table, [n], from ``choose_table``.
    """
    coder = _coder()
    coder.encode_reverse(symbols.astype(np.int32), _model(probabilities(frequencies)))
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return bytes([len(frequencies) - 1, form]) + _write_table(frequencies, form) + words.rstrip(b"\0")


def pieces(data: memoryview, count: int, piece: int) -> Iterator[Bytes]:
    """Read what ``encode`` wrote.

    Args:
        data: The whole stream.
        count: Number of symbols in it.
        piece: Symbols that are decoded at once.

    Yields:
        Symbols, [piece]; in the last piece those that are left.

    Raises:
        PruneError: If it is not such a stream.
        MemoryError: If there is not enough memory.
    """
    if len(data) < 2 or data[0] < 1 or data[1] > 15:
        raise PruneError("has an ANS table of no known form")
    frequencies, used = _read_table(data[2:], data[0] + 1, data[1])
    if not frequencies.any():
        raise PruneError("has an ANS table without any frequency")
    if data[2 + used :] and data[-1] == 0:
        raise PruneError("has ANS words that end in zero")
    words = np.zeros(-(-(len(data) - 2 - used) // 4), "<u4")
    words.view(np.uint8)[: len(data) - 2 - used] = np.frombuffer(data[2 + used :], np.uint8)
    # constriction ends the process if it gets no memory: numpy is asked first for as much, and gives it back
    np.empty(words.nbytes + 8 * piece + _SPARE, np.uint8)
    coder, model = _coder(words.astype(np.uint32, copy=False)), _model(probabilities(frequencies))
    del words
    for start in range(0, count, piece):
        symbols: NDArray[Any] = coder.decode(model, min(piece, count - start))
        yield symbols.astype(np.uint8)
    if not coder.is_empty():
        raise PruneError("has ANS words that its symbols do not use up")


def _rounded(counts: Counts, largest: int, mantissa: int) -> Counts:
    """Frequencies of at most ``largest`` bits, of which all below the first ``mantissa`` + 1 are 0."""
    top = int(counts.max())
    scale = min(1.0, ((1 << largest) - 1) / top)
    scaled = np.where(counts > 0, np.maximum(counts * scale, 1), 0).round().astype(np.int64)
    spare = np.maximum(_exponents(scaled) - 1 - mantissa, 0)
    half = np.where(spare > 0, 1 << np.maximum(spare - 1, 0), 0)
    up = (scaled + half) >> spare << spare
    found: Counts = np.where(up >= 1 << largest, scaled >> spare << spare, up)
    return found


def _exponents(frequencies: Counts) -> Counts:
    """Bits that each number has: 0 for 0, 1 for 1, 2 for 2 and 3."""
    found: Counts = np.ceil(np.log2(frequencies + 1.0)).astype(np.int64)
    return found


def _table_bits(frequencies: Counts, wide: int, mantissa: int) -> int:
    return len(frequencies) * wide + int(np.clip(_exponents(frequencies) - 1, 0, mantissa).sum())


def _write_table(frequencies: Counts, form: int) -> bytes:
    wide, mantissa = (_WIDE if form >> 3 else _NARROW), form & 7
    text = []
    for frequency, bits in zip(frequencies.tolist(), _exponents(frequencies).tolist()):
        text.append(f"{bits:0{wide}b}")
        kept = min(bits - 1, mantissa)
        if kept > 0:
            text.append(f"{frequency >> bits - 1 - kept & (1 << kept) - 1:0{kept}b}")
    joined = "".join(text)
    return int(joined.ljust(-(-len(joined) // 8) * 8, "0"), 2).to_bytes(-(-len(joined) // 8), "big")


def _read_table(data: memoryview, alphabet: int, form: int) -> tuple[Counts, int]:
    wide, mantissa = (_WIDE if form >> 3 else _NARROW), form & 7
    longest = -(-alphabet * (wide + mantissa) // 8)
    text = "".join(f"{byte:08b}" for byte in data[:longest])
    at, found = 0, []
    for _ in range(alphabet):
        if at + wide > len(text):
            raise PruneError("ends within its ANS table")
        bits, at = int(text[at : at + wide], 2), at + wide
        kept = max(min(bits - 1, mantissa), 0)
        if at + kept > len(text):
            raise PruneError("ends within its ANS table")
        low, at = int(text[at : at + kept] or "0", 2), at + kept
        found.append(((1 << kept) + low) << bits - 1 - kept if bits else 0)
    return np.array(found, np.int64), -(-at // 8)


def _model(whole: Counts) -> Any:
    """constriction's model with exactly these probabilities: it gives each symbol 1 and shares the rest as told."""
    return constriction.stream.model.Categorical(
        (whole - 1).astype(np.float32), perfect=False
    )  # sums below 1 << 24: exact in float32


def _coder(words: Any = None) -> Any:
    stack = constriction.stream.stack
    return stack.AnsCoder() if words is None else stack.AnsCoder(words)
