"""A reader of .y5z in plain Python, written from docs/format.md alone; it imports nothing of the package."""

from __future__ import annotations

import json
import lzma
import struct
import zlib
from collections.abc import Iterator
from math import ceil, prod
from typing import Any

SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


class Bytes:
    """Bytes in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        assert self.at + count <= len(self.data)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value


def bits_of(data: bytes) -> Iterator[int]:
    for byte in data:
        yield from (byte >> i & 1 for i in range(7, -1, -1))


def read_bits(bits: Iterator[int], count: int) -> int:
    value = 0
    for _ in range(count):
        value = value << 1 | next(bits)
    return value


def stream(source: Bytes, count: int, alphabet: int) -> list[int]:
    if not count:
        return []
    coder = source.take(1)[0]
    data = source.take(source.number())
    if coder == 0:
        return [data[0]] * count
    if coder in (4, 5):
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 22, "lc": 0, "lp": 0, "pb": 0}]
        data = lzma.decompress(data, lzma.FORMAT_RAW, filters=filters)
    if coder in (1, 5):
        bits, width = bits_of(data), max(1, (alphabet - 1).bit_length())
        return [read_bits(bits, width) for _ in range(count)]
    if coder == 2:
        return huffman(data, count)
    if coder == 3:
        return ans(data, count)
    assert coder == 4
    return list(data)


def huffman(data: bytes, count: int) -> list[int]:
    source = Bytes(data)
    n = source.take(1)[0] + 1
    bits = bits_of(source.take(ceil(n / 2)))
    lengths = [read_bits(bits, 4) for _ in range(n)]
    code = before = 0
    codes = {}
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - before
        codes[length, code] = symbol
        code, before = code + 1, length
    blocks = ceil(count / 4096)
    sizes = struct.unpack(f"<{blocks}H", source.take(2 * blocks)) if blocks > 1 else [len(data) - source.at]
    found = []
    for index, size in enumerate(sizes):
        bits = bits_of(source.take(size))
        for _ in range(min(4096, count - 4096 * index)):
            length, value = 1, next(bits)
            while (length, value) not in codes:
                length, value = length + 1, value << 1 | next(bits)
            found.append(codes[length, value])
    return found


def ans(data: bytes, count: int) -> list[int]:
    n, wide, m = data[0] + 1, 5 if data[1] & 8 else 4, data[1] & 7
    bits, used, f = bits_of(data[2:]), 0, []
    for _ in range(n):
        e = read_bits(bits, wide)
        kept = max(min(e - 1, m), 0)
        f.append((1 << kept | read_bits(bits, kept)) << e - 1 - kept if e else 0)
        used += wide + kept
    p = [1 + x * (2**24 - n) // sum(f) for x in f]
    p[f.index(max(f))] += 2**24 - sum(p)
    c = [sum(p[:i]) for i in range(n)]
    rest = data[2 + ceil(used / 8) :]
    rest += bytes(-len(rest) % 4)
    words = list(struct.unpack(f"<{len(rest) // 4}I", rest))
    state = words.pop() if words else 0
    state = state << 32 | words.pop() if words else state
    found = []
    for _ in range(count):
        q = state % 2**24
        i = max(i for i in range(n) if c[i] <= q)
        state = state // 2**24 * p[i] + q - c[i]
        if state < 2**32 and words:
            state = state << 32 | words.pop()
        found.append(i)
    assert not words
    assert state == 0
    return found


def weight(source: Bytes, shape: list[int], width: int, dtype: str) -> list[int]:
    size = prod(shape)
    rows = shape[0] if len(shape) > 1 else 1
    kept = source.number()
    if not kept:
        return [0] * size
    places = list(range(size))
    if kept < size:
        columns = size // rows
        form = source.take(1)[0]
        a, strays, at = 1, set(), -1
        if form & 8:
            a = source.take(1)[0]
            for _ in range(source.number()):
                at += source.number() + 1
                strays.add(at)
        live = []
        for flag, count in ((1, ceil(rows / a)), (2, columns)):
            bits = (
                [b for byte in stream(source, ceil(count / 8), 256) for b in bits_of(bytes([byte]))]
                if form & flag
                else []
            )
            live.append([i for i in range(count) if not form & flag or bits[i]])
        inner = [row * columns + column for row in live[0] for column in live[1]]
        if form & 4:
            bits = [b for byte in stream(source, source.number(), 256) for b in bits_of(bytes([byte]))]
            places = [place for place, bit in zip(inner, bits) if bit]
        else:
            w = source.take(1)[0]
            at, places = 0, []
            for symbol in stream(source, source.number(), 2**w):
                at += symbol
                if symbol < 2**w - 1:
                    places.append(inner[at])
                    at += 1
        blocks = {(place // columns * a + i) * columns + place % columns for place in places for i in range(a)}
        places = sorted(place for place in blocks - strays if place < size)
    assert len(places) == kept
    k = source.number()
    if k == 257:
        most = source.number()
        step = number_of(int.from_bytes(source.take(width), "little"), dtype)
        zeros = source.number()
        symbols = stream(source, kept, 2 * most + 1)
        assert symbols.count(most) == zeros
        values = [bits_in((symbol - most) * step, dtype) if symbol != most else 0 for symbol in symbols]
    elif k:
        codebook = [int.from_bytes(source.take(width), "little") for _ in range(k)]
        values = [codebook[i] for i in stream(source, kept, k)] if k > 1 else codebook * kept
    else:
        values = joined([stream(source, kept, 256) for _ in range(width)])
    found = [0] * size
    for place, value in zip(places, values):
        found[place] = value
    return found


def number_of(bits: int, dtype: str) -> float:
    """What a number is whose bits are these."""
    if dtype == "BF16":
        return number_of(bits << 16, "F32")
    form, width = {"F16": ("e", 2), "F32": ("f", 4), "F64": ("d", 8)}[dtype]
    found: float = struct.unpack(f"<{form}", bits.to_bytes(width, "little"))[0]
    return found


def bits_in(value: float, dtype: str) -> int:
    """The bits of a number that the type holds exactly."""
    if dtype == "BF16":
        return bits_in(value, "F32") >> 16
    return int.from_bytes(struct.pack({"F16": "<e", "F32": "<f", "F64": "<d"}[dtype], value), "little")


def joined(planes: list[list[int]]) -> list[int]:
    return [int.from_bytes(bytes(some), "big") for some in zip(*planes)]


def read(data: bytes) -> tuple[dict[str, tuple[str, list[int], list[int]]], dict[str, Any]]:
    """By name: type, shape and entries as numbers with their bits; and the content."""
    assert data[:8] == bytes.fromhex("8959355a0d0a1a0a")
    version, stored, inflated, crc = struct.unpack("<4I", data[8:24])
    assert version in (1, 2, 3)
    assert crc == zlib.crc32(data[24 : 24 + stored], zlib.crc32(data[:20]))
    text = zlib.decompress(data[24 : 24 + stored])
    assert len(text) == inflated
    header, at, found = json.loads(text), 24 + stored, {}
    for section in header["sections"]:
        part, at = data[at : at + section["bytes"]], at + section["bytes"]
        assert zlib.crc32(part) == section["crc32"]
        source, dtype, tensors = Bytes(part), section["dtype"], section["tensors"]
        if section["kind"] == "weight":
            found[tensors[0][0]] = dtype, tensors[0][1], weight(source, tensors[0][1], SIZES[dtype], dtype)
        else:
            count = sum(prod(shape) for _, shape in tensors)
            values = joined([stream(source, count, 256) for _ in range(SIZES[dtype])]) if count else []
            for name, shape in tensors:
                found[name], values = (dtype, shape, values[: prod(shape)]), values[prod(shape) :]
        assert source.at == len(part)
    assert at == len(data)
    return found, header["content"]
