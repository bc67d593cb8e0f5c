"""Coders give back what they got, at sizes that a reader can check, near Shannon's bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.coding import ans, entropy, huffman
from yolov5_prune_plugin.core.coding.cursor import Cursor, number
from yolov5_prune_plugin.errors import PruneError


def back(data: bytes, count: int, alphabet: int) -> np.ndarray:
    cursor = Cursor(memoryview(data))
    stream = entropy.read(cursor, count, alphabet)
    cursor.close()
    assert stream.size == len(data)
    return stream.decode()


def test_lengths_of_four_symbols() -> None:
    """Eight a, four b, two c, two d: 1, 2, 3 and 3 bits, and the canonical codes 0, 10, 110, 111."""
    lengths = huffman.code_lengths(np.array([8, 4, 2, 2]))
    assert lengths.tolist() == [1, 2, 3, 3]
    assert [f"{code:0{bits}b}" for code, bits in zip(huffman.codes(lengths).tolist(), lengths)] == [
        "0",
        "10",
        "110",
        "111",
    ]


def test_a_huffman_stream_by_hand() -> None:
    """a b c d = 0 10 110 111; table: n - 1 = 3, lengths 1 2 3 3; bits 01011011 1(0000000)."""
    symbols = np.array([0, 1, 2, 3], np.uint8)
    written = huffman.encode(symbols, np.array([1, 2, 3, 3], np.uint8))
    assert written == bytes([3, 0x12, 0x33, 0b01011011, 0b10000000])
    assert np.concatenate([*huffman.pieces(memoryview(written), 4)]).tolist() == [0, 1, 2, 3]


def test_codes_longer_than_15_bits_are_shortened() -> None:
    """Counts that double with each symbol would need 29 bits; the limit keeps the code complete."""
    lengths = huffman.code_lengths(2 ** np.arange(30, dtype=np.int64))
    assert lengths.max() == 15
    assert sum(2.0 ** -int(bits) for bits in lengths) == 1
    assert sorted(lengths.tolist(), reverse=True) == lengths.tolist()


def test_the_limit_costs_as_little_as_can_be() -> None:
    """Of all codes of at most 15 bits package-merge finds the shortest: never worse than cutting and mending."""
    counts = np.array([1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181])
    lengths = huffman.code_lengths(counts)
    cut = np.minimum(np.array([18, 18, *range(17, 0, -1)]), 15)
    spare = sum(2.0**-bits for bits in cut) - 1  # over 1: some must become longer
    while spare > 0:
        index = max((i for i in range(len(cut)) if cut[i] < 15), key=lambda i: cut[i])
        spare -= 2.0 ** -int(cut[index]) / 2
        cut[index] += 1
    assert (counts * lengths).sum() <= (counts * cut).sum()


def test_probabilities_by_hand() -> None:
    """1 each, the rest 3:1, and what rounding leaves to the larger: 2^24 - 2 = 16777214 = 3 * 4194303 + 4194303 + 2."""
    assert ans.probabilities(np.array([3, 1])).tolist() == [12582911 + 1, 4194303 + 1]
    assert ans.probabilities(np.array([0, 7])).tolist() == [1, 2**24 - 1]


@given(st.lists(st.integers(0, 255), max_size=400), st.sampled_from(entropy.CHOICES), st.integers(0, 3))
def test_any_symbols_come_back(symbols: list[int], coder: str, squeeze: int) -> None:
    """Of small and large alphabets, by all coders."""
    some = (np.array(symbols, np.int64) >> 2 * squeeze).astype(np.uint8)
    data = entropy.write(some, 256 >> 2 * squeeze, coder)
    if not symbols:
        assert data == b""
    else:
        assert np.array_equal(back(data, len(some), 256 >> 2 * squeeze), some)


@pytest.mark.parametrize("count", [1, 4096, 4097, 96 * 4096, 98 * 4096 + 1, 130 * 4096])
def test_blocks_of_huffman(count: int) -> None:
    """One, several, and so many that they are decoded side by side; the last block full or not."""
    symbols = np.random.default_rng(count).geometric(0.3, count).clip(1, 200).astype(np.uint8)
    symbols[0] = 0
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=2) + (count == 1))
    data = huffman.encode(symbols, lengths)
    assert np.array_equal(np.concatenate([*huffman.pieces(memoryview(data), count)]), symbols)
    assert (
        0
        <= len(data) - huffman.encoded_bytes(np.bincount(symbols, minlength=len(lengths)), lengths)
        <= count // 4096 + 1
    )


@pytest.mark.parametrize("alphabet", [2, 16, 32, 256])
def test_within_two_percent_of_shannon(alphabet: int) -> None:
    """300,000 symbols of a bell shape, table and all; Huffman is the paper's and needs more."""
    rng = np.random.default_rng(alphabet)
    symbols = np.clip(rng.normal(alphabet / 2, alphabet / 6, 300_000), 0, alphabet - 1).astype(np.uint8)
    bound = entropy.entropy(np.bincount(symbols))
    best = len(entropy.write(symbols, alphabet))
    assert bound <= best <= 1.003 * bound
    assert best <= len(entropy.write(symbols, alphabet, "huffman"))


def test_the_best_coder_is_taken() -> None:
    """Constant, even, skewed and repeating symbols."""
    rng = np.random.default_rng(0)
    skewed = rng.choice(4, 20_000, p=[0.9, 0.05, 0.03, 0.02]).astype(np.uint8)
    even = rng.integers(0, 16, 4000).astype(np.uint8)
    dyadic = np.repeat(np.arange(4, dtype=np.uint8), [320, 160, 80, 80])[rng.permutation(640)]
    for symbols, alphabet, coder in ((np.full(1000, 7), 256, "constant"), (even, 16, "raw"), (skewed, 4, "ans"),
                                     (dyadic, 4, "huffman"), (np.tile(even[:100], 500), 16, "packed lzma"),
                                     (np.tile(even[:100], 500), 256, "lzma")):  # fmt: skip
        data = entropy.write(symbols.astype(np.uint8), alphabet)
        assert entropy.CODERS[data[0]] == coder
        assert np.array_equal(back(data, len(symbols), alphabet), symbols)


def test_numbers() -> None:
    """LEB128: 300 is 0b10_0101100, so AC 02."""
    assert number(300) == bytes([0xAC, 0x02])
    for value in (0, 127, 128, 2**32, 2**62):
        assert Cursor(memoryview(number(value))).number() == value
    with pytest.raises(PruneError, match="no end"):
        Cursor(memoryview(b"\xff" * 10)).number()
    with pytest.raises(PruneError, match="ends early"):
        Cursor(memoryview(b"\xff")).number()


@pytest.mark.parametrize(
    ("coder", "payload", "what"),
    [
        (9, b"", "coder 9"),
        (0, b"", "constant of 0"),
        (0, b"\x05", "symbol 5"),
        (1, b"\x00", "1 bytes where"),
        (2, b"", "no complete code"),
        (2, b"\x03\x11\x11\x00\x00", "no complete code"),
        (2, b"\x01\x11" + bytes(9), "another length"),
        (3, b"\x03", "no known form"),
        (3, b"\x03\x00", "within its ANS table"),
        (3, b"\x03\x00\x00\x00", "without any frequency"),
        (3, b"\x03\x00\x11\x11\x00", "end in zero"),
        (3, b"\x03\x00\x11\x11" + b"\x01" * 40, "do not use up"),
        (4, b"\x77\x77", "no LZMA2"),
        (4, b"", "other than 20"),
        (5, b"\x77\x77", "no LZMA2"),
        (5, b"", "other than 5"),
    ],
)
def test_damaged_streams(coder: int, payload: bytes, what: str) -> None:
    """Each is an error in words, none a crash."""
    with pytest.raises(PruneError, match=what):
        back(bytes([coder]) + number(len(payload)) + payload, 20, 4)
