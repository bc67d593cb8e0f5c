"""The .y5z file: a preamble, a JSON header, and sections without gaps, each with a checksum; see docs/format.md."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from yolov5_prune_plugin.core.coding import packing
from yolov5_prune_plugin.core.coding.sections import Section, checked, entry_of
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole

MAGIC = b"\x89Y5Z\r\n\x1a\n"  # as PNG's: a transfer that changes bytes or line ends is seen at once
VERSION = 1
LIMIT = 2 << 30  # bytes of tensors that a file may unpack to
_PREAMBLE = struct.Struct("<8sIIII")  # magic, version, bytes of the header as it is and inflated, CRC-32 of all that
_HEADER = 16 << 20  # bytes of a header, inflated


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
            PruneError: If a section is damaged; it names the file and the first tensor in it.
        """
        found: dict[str, Tensor] = {}
        for section in self.sections:
            try:
                found.update(section.decode())
            except PruneError as error:
                raise PruneError(f"{self.file}: {section.tensors[0][0]} {error}") from None
        return found


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
    sections = [entry_of("weight", [(name, t)], packing.write_weight(t, coder)) for name, t in weights.items()]
    kinds: dict[str, list[tuple[str, Tensor]]] = {}
    for name, tensor in others.items():
        kinds.setdefault(packing.dtype_name(tensor), []).append((name, tensor))
    sections += [entry_of("plain", some, packing.write_plain([t for _, t in some], coder)) for some in kinds.values()]
    header = {"sections": [entry for entry, _ in sections], "content": dict(content)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if len(text) > _HEADER:
        raise PruneError(f"a header of {len(text):,} bytes is too long; at most {_HEADER:,}")
    stored = zlib.compress(text, 9)
    start = _PREAMBLE.pack(MAGIC, VERSION, len(stored), len(text), 0)[:-4]
    with written_whole(file) as place, open(place, "wb") as stream:
        stream.write(start + struct.pack("<I", zlib.crc32(stored, zlib.crc32(start))) + stored)
        for _, data in sections:
            stream.write(data)
    return file.stat().st_size


def read(file: Path, limit: int = LIMIT) -> Container:
    """Open a file: nothing in it is executed, and nothing is allocated before its size is checked.

    Args:
        file: The file to read.
        limit: Most bytes that its tensors may have in memory.

    Raises:
        PruneError: If it is no such file, of a later version, damaged, cut short, or unpacks to more than the limit.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            return _read(file, stream, size, limit)
    except OSError as error:
        raise PruneError(f"{file}: cannot be read: {error.strerror}") from error
    except PruneError as error:
        raise PruneError(f"{file}: {error}") from None


def is_container(file: Path) -> bool:
    """Whether a file begins as ours do."""
    try:
        with open(file, "rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _read(file: Path, stream: Any, size: int, limit: int) -> Container:
    preamble = stream.read(_PREAMBLE.size)
    if preamble[: len(MAGIC)] != MAGIC:
        raise PruneError("is no .y5z file: it begins with other bytes; yolov5-prune compress makes one")
    if len(preamble) < _PREAMBLE.size:
        raise PruneError(f"is cut short: {size} bytes; copy it again")
    _, version, stored, inflated, checksum = _PREAMBLE.unpack(preamble)
    if version != VERSION:
        raise PruneError(f"has version {version} of the format, this program knows {VERSION}; upgrade it")
    if inflated > _HEADER or stored > size - _PREAMBLE.size:
        raise PruneError(f"announces a header of {stored:,} bytes, {inflated:,} inflated: it is cut short or damaged")
    text = stream.read(stored)
    if zlib.crc32(text, zlib.crc32(preamble[:-4])) != checksum:
        raise PruneError("has a damaged header: its checksum is another; copy it again")
    header = _json(text, inflated)
    entries, content = header.get("sections"), header.get("content")
    if not isinstance(entries, list) or not isinstance(content, dict):
        raise PruneError("has a header without sections and content")
    found = [checked(entry) for entry in entries]
    names = [name for section, _, _ in found for name, _ in section.tensors]
    if len(set(names)) != len(names):
        raise PruneError("has two tensors of one name")
    start = _PREAMBLE.size + stored
    announced = start + sum(length for _, length, _ in found)
    if announced != size:
        what = "is cut short" if announced > size else "has bytes behind its end"
        raise PruneError(f"{what}: {size:,} bytes, its header announces {announced:,}; copy it again")
    total = sum(section.size for section, _, _ in found)
    if total > limit:
        raise PruneError(f"unpacks to {total:,} bytes of tensors; at most {limit:,} are opened")
    sections = []
    for section, length, crc in found:
        data = stream.read(length)
        if len(data) != length or zlib.crc32(data) != crc:
            raise PruneError(f"is damaged at {section.tensors[0][0]}: its checksum is another; copy it again")
        sections.append(Section(section.kind, section.dtype, section.tensors, memoryview(data)))
    return Container(file, content, tuple(sections), size, start)


def _json(text: bytes, inflated: int) -> dict[str, Any]:
    machine = zlib.decompressobj()
    try:
        found = machine.decompress(text, inflated + 1)
        if len(found) != inflated or not machine.eof or machine.unused_data:
            raise PruneError(f"has a header of other than the {inflated:,} bytes announced")
        header = json.loads(found.decode("utf-8"))
    except (zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, PruneError):
            raise
        raise PruneError(f"has a header that is no JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise PruneError("has a header that is no JSON object")
    return header
