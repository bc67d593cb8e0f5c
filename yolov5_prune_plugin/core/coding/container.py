"""The .y5z file: a preamble, a JSON header, and sections without gaps, each with a checksum; see docs/format.md."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Optional

from torch import Tensor

from yolov5_prune_plugin.core.coding import packing, schema
from yolov5_prune_plugin.core.coding.cursor import Cursor
from yolov5_prune_plugin.core.coding.sections import FLOATS, Section, checked, entry_of
from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.files import open_regular, written_whole
from yolov5_prune_plugin.options import size_in_bytes

MAGIC = b"\x89Y5Z\r\n\x1a\n"  # as PNG's: a transfer that changes bytes or line ends is seen at once
VERSION = 3  # of files with evenly spaced values; 2 of those with positions of blocks, 1 of others
LIMIT = 4 << 30  # bytes of memory that reading a file may take
VARIABLE = "YOLOV5_PRUNE_MAX_MEMORY"  # raises it
FACTOR = 2  # reading takes at most so often what the tensors take
_PREAMBLE = struct.Struct("<8sIIII")  # magic, version, bytes of the header as it is and inflated, CRC-32 of all that
_HEADER, _VALUES = 4 << 20, 400_000  # bytes of a header, inflated, and of values, lists and objects in it
_BLOCK = 1 << 20  # bytes that are read at once
_KEYS = schema.record({"sections": schema.listed(lambda value, field: None, 0, 1 << 20),
                       "content": schema.mapped(lambda value, field: None)}, ("sections", "content"))  # fmt: skip


class TooLargeError(PruneError):
    """A file unpacks to more than the limit."""


@dataclass(frozen=True)
class Container:
    """A file that was opened: all is checked but what only decoding shows.

    Attributes:
        file: The file it was read from.
        content: Plain values that its writer put into the header, beside the sections.
        sections: In the file's order.
        size: Bytes of the file.
        header_size: Bytes of preamble and header.
    """

    file: Path
    content: dict[str, Any]
    sections: tuple[Section, ...]
    size: int
    header_size: int

    def decode(self) -> dict[str, Tensor]:
        """Decode all tensors, by name, in the file's order.

        Raises:
            PruneError: If a section is damaged, or memory runs out; it names the file and the first tensor in it.
        """
        found: dict[str, Tensor] = {}
        for section in self.sections:
            try:
                found.update(section.decode())
            except PruneError as error:
                raise PruneError(f"{self.file}: {section.tensors[0][0]} {error}") from None
            except MemoryError:
                raise PruneError(f"{self.file}: {section.tensors[0][0]} needs more memory than there is") from None
            except OSError as error:
                raise PruneError(f"{self.file}: cannot be read: {error.strerror}") from error
        return found

    @property
    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each tensor, by name, in the file's order; nothing is decoded."""
        return {name: (section.dtype, shape) for section in self.sections for name, shape in section.tensors}


def write(
    file: Path, content: Mapping[str, Any], weights: Mapping[str, Tensor], others: Mapping[str, Tensor],
    coder: str = "best",
) -> int:  # fmt: skip
    """Write tensors to a file; it is whole or not there.

    Args:
        file: The file to write; it is replaced.
        content: Plain values, kept in the header.
        weights: Tensors with zeros or few values; each gets a section.
        others: Tensors that have neither; those of one type get a section together.
        coder: One of ``entropy.CHOICES``.

    Returns:
        Bytes of the file.

    Raises:
        OSError: If it can't be written.
        PruneError: If a tensor is of a type that the format does not have.
    """
    whole = [name for name, tensor in weights.items() if packing.dtype_name(tensor) not in FLOATS]
    others = {**{name: weights[name] for name in whole}, **others}
    weights = {name: tensor for name, tensor in weights.items() if name not in whole}
    sections = [entry_of("weight", [(name, t)], packing.write_weight(t, coder)) for name, t in weights.items()]
    kinds: dict[str, list[tuple[str, Tensor]]] = {}
    for name, tensor in others.items():
        kinds.setdefault(packing.dtype_name(tensor), []).append((name, tensor))
    sections += [entry_of("plain", some, packing.write_plain([t for _, t in some], coder)) for some in kinds.values()]
    header = {"sections": [entry for entry, _ in sections], "content": dict(content)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if len(text) > _HEADER or sum(map(text.count, (b",", b"[", b"{"))) > _VALUES:
        raise PruneError(f"a header of {len(text):,} bytes is too long; at most {_HEADER:,}, and {_VALUES:,} values")
    stored = zlib.compress(text, 9)
    start = _PREAMBLE.pack(MAGIC, _version(sections, weights), len(stored), len(text), 0)[:-4]
    with written_whole(file) as place, open(place, "wb") as stream:
        stream.write(start + struct.pack("<I", zlib.crc32(stored, zlib.crc32(start))) + stored)
        for _, data in sections:
            stream.write(data)
    return file.stat().st_size


def read(file: Path, limit: Optional[int] = None) -> Container:
    """Open a file: nothing in it is executed, and nothing is allocated before its size is checked.

    Args:
        file: The file to read.
        limit: Bytes of memory that reading it may take, ``FACTOR`` times what its tensors take; None takes
            ``memory_limit()``.

    Raises:
        TooLargeError: If it unpacks to more than the limit.
        PruneError: If it is no such file, of a later version, damaged or cut short.
    """
    try:
        with open_regular(file) as stream:
            return _read(file, stream, memory_limit() if limit is None else limit)
    except OSError as error:
        raise PruneError(f"{file}: cannot be read: {error.strerror}") from error
    except MemoryError:
        raise PruneError(f"{file}: its header needs more memory than there is") from None
    except PruneError as error:
        raise type(error)(f"{file}: {error}") from None


def memory_limit() -> int:
    """Bytes of memory that reading a file may take: ``LIMIT``, or what the environment says.

    Raises:
        PruneError: If the environment says nothing that is a size.
    """
    said = os.environ.get(VARIABLE)
    if not said:
        return LIMIT
    with named(default=VARIABLE):
        return size_in_bytes(said)


def is_container(file: Path) -> bool:
    """Whether a file begins as ours do."""
    try:
        with open_regular(file) as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class _Bytes:
    """Reads a part of a file that must stay what it was when it was opened."""

    def __init__(self, file: Path, opened: os.stat_result, start: int) -> None:
        self.file, self.start, self.facts = file, start, _facts(opened)

    def __call__(self, start: int, count: int) -> bytes:
        with open_regular(self.file) as stream:
            if _facts(os.fstat(stream.fileno())) != self.facts:
                raise PruneError("cannot be read: the file was changed meanwhile")
            stream.seek(self.start + start)
            found = stream.read(count)
        if len(found) != count:
            raise PruneError("cannot be read: the file was cut meanwhile")
        return found


def _version(sections: Sequence[tuple[Any, bytes]], weights: Mapping[str, Tensor]) -> int:
    """The lowest version that has what the first sections, those of weights, have."""
    version = 1
    for (_, data), tensor in zip(sections, weights.values()):
        coded = packing.read_weight(Cursor(memoryview(data)), tuple(tensor.shape), packing.dtype_name(tensor))
        blocks = coded.where is not None and coded.where.block > 1
        version = max(version, VERSION if coded.even else 2 if blocks else 1)
    return version


def _facts(opened: os.stat_result) -> tuple[int, ...]:
    return opened.st_dev, opened.st_ino, opened.st_size, opened.st_mtime_ns


def _read(file: Path, stream: BinaryIO, limit: int) -> Container:
    opened = os.fstat(stream.fileno())
    size, preamble = opened.st_size, stream.read(_PREAMBLE.size)
    if preamble[: len(MAGIC)] != MAGIC:
        raise PruneError("is no .y5z file: it begins with other bytes; yolov5-prune compress makes one")
    if len(preamble) < _PREAMBLE.size:
        raise PruneError(f"is cut short: {size} bytes; copy it again")
    _, version, stored, inflated, checksum = _PREAMBLE.unpack(preamble)
    if not 1 <= version <= VERSION:
        raise PruneError(f"has version {version} of the format, this program knows 1 to {VERSION}; upgrade it")
    if inflated > _HEADER or stored > min(size - _PREAMBLE.size, 2 * _HEADER):
        raise PruneError(f"announces a header of {stored:,} bytes, {inflated:,} inflated: it is cut short or damaged")
    text = stream.read(stored)
    if zlib.crc32(text, zlib.crc32(preamble[:-4])) != checksum:
        raise PruneError("has a damaged header: its checksum is another; copy it again")
    header = _json(text, inflated)
    _KEYS(header, "top")
    sections = [checked(entry, f"sections[{index}]") for index, entry in enumerate(header["sections"])]
    names = [name for section in sections for name, _ in section.tensors]
    if len(set(names)) != len(names):
        raise PruneError("has two tensors of one name")
    start = _PREAMBLE.size + stored
    announced = start + sum(section.length for section in sections)
    if announced != size:
        what = "is cut short" if announced > size else "has bytes behind its end"
        raise PruneError(f"{what}: {size:,} bytes, its header announces {announced:,}; copy it again")
    total = sum(section.size for section in sections)
    if FACTOR * total > limit:
        raise TooLargeError(f"unpacks to {total:,} bytes of tensors, which takes up to {FACTOR * total:,} of memory;"
                            f" at most {limit:,} are allowed. max-memory, where a command has"
                            f" that, or {VARIABLE} allows more")  # fmt: skip
    found, at = [], start
    for section in sections:
        _check(stream, section)
        found.append(replace(section, source=_Bytes(file, opened, at)))
        at += section.length
    return Container(file, header["content"], tuple(found), size, start)


def _check(stream: BinaryIO, section: Section) -> None:
    """Compare the checksum of the bytes that come next."""
    crc, left = 0, section.length
    while left:
        block = stream.read(min(left, _BLOCK))
        if not block:
            break
        crc, left = zlib.crc32(block, crc), left - len(block)
    if left or crc != section.crc32:
        raise PruneError(f"is damaged at {section.tensors[0][0]}: its checksum is another; copy it again")


def _json(text: bytes, inflated: int) -> dict[str, Any]:
    machine = zlib.decompressobj()
    try:
        found = machine.decompress(text, inflated + 1)
        if len(found) != inflated or not machine.eof or machine.unused_data:
            raise PruneError(f"has a header of other than the {inflated:,} bytes announced")
        if sum(map(found.count, (b",", b"[", b"{"))) > _VALUES:
            raise PruneError(f"has a header of more than {_VALUES:,} values")
        header = json.loads(found.decode("utf-8"), parse_constant=_no_number)
    except (zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, PruneError):
            raise
        raise PruneError(f"has a header that is no JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise PruneError("has a header that is no JSON object")
    return header


def _no_number(name: str) -> Any:
    raise PruneError(f"has a header with {name}, which is no number of JSON")
