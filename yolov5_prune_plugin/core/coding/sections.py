"""Sections of a .y5z file: which tensors are in each, checked before anything is decoded."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from yolov5_prune_plugin.core.coding import packing, schema
from yolov5_prune_plugin.core.coding.cursor import Cursor, Source
from yolov5_prune_plugin.errors import PruneError

KINDS = ("weight", "plain")
FLOATS = ("F16", "BF16", "F32", "F64")  # types that a weight can have
_DIMENSIONS, _TENSORS, _NAME = 8, 100_000, 512
_NUMBER = schema.whole(0, (1 << 32) - 1)
_ENTRY = schema.record({
    "kind": schema.one_of(*KINDS),
    "dtype": schema.one_of(*packing.DTYPES),
    "tensors": schema.listed(
        schema.tuple_of(schema.text(_NAME), schema.listed(_NUMBER, 0, _DIMENSIONS)), 1, _TENSORS
    ),
    "bytes": _NUMBER,
    "crc32": _NUMBER,
}, ("kind", "dtype", "tensors", "bytes", "crc32"))  # fmt: skip


@dataclass(frozen=True)
class Section:
    """One or several tensors in a contiguous part of the file.

    Attributes:
        kind: ``weight``: one tensor, with positions and codebook; ``plain``: tensors of one type by their bytes.
        dtype: Name of the tensors' type in ``packing.DTYPES``.
        tensors: Names and shapes.
        length: Bytes in the file.
        crc32: Their checksum.
        source: Reads them.
    """

    kind: str
    dtype: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    length: int
    crc32: int
    source: Source = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes that its tensors take once decoded; a dimension of 0 counts as 1, so that others stay bounded."""
        sizes: Iterable[int] = (math.prod(max(1, side) for side in shape) for _, shape in self.tensors)
        return sum(sizes) * packing.DTYPES[self.dtype][0].itemsize

    @property
    def coded(self) -> packing.Coded:
        """The parts of a weight, found but not decoded.

        Raises:
            PruneError: If they are damaged.
        """
        cursor = Cursor(self.source, self.length)
        found = packing.read_weight(cursor, self.tensors[0][1], self.dtype)
        cursor.close()
        return found

    def decode(self) -> dict[str, Tensor]:
        """Decode the tensors, by name.

        Raises:
            PruneError: If they are damaged.
        """
        if self.kind == "weight":
            return {self.tensors[0][0]: self.coded.decode()}
        cursor = Cursor(self.source, self.length)
        found = packing.read_plain(cursor, [shape for _, shape in self.tensors], self.dtype)
        cursor.close()
        return dict(zip((name for name, _ in self.tensors), found))


def entry_of(kind: str, tensors: Sequence[tuple[str, Tensor]], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Describe a section.

    Args:
        kind: One of ``KINDS``.
        tensors: Names and tensors, all of one type.
        data: The packed tensors.

    Returns:
        The header's entry for the section, and ``data``.
    """
    entry = {"kind": kind, "dtype": packing.dtype_name(tensors[0][1]),
             "tensors": [[name, list(tensor.shape)] for name, tensor in tensors],
             "bytes": len(data), "crc32": zlib.crc32(data)}  # fmt: skip
    return entry, data


def checked(entry: Any, field: str) -> Section:
    """Check the entry of a section in a header.

    Args:
        entry: The entry.
        field: What it is in the header.

    Returns:
        The section, which can't be read yet.

    Raises:
        PruneError: If the entry is none; it names the field.
    """
    _ENTRY(entry, field)
    kind, dtype, tensors = entry["kind"], entry["dtype"], entry["tensors"]
    if kind == "weight" and len(tensors) != 1:
        raise PruneError(f"has a header whose {field}.tensors has {len(tensors):,} tensors; a weight is one")
    if kind == "weight" and dtype not in FLOATS:
        raise PruneError(f"has a header whose {field}.dtype is {dtype}; that of a weight is one of {', '.join(FLOATS)}")
    named = tuple((name, tuple(shape)) for name, shape in tensors)
    return Section(kind, dtype, named, entry["bytes"], entry["crc32"], _unread)


def _unread(start: int, count: int) -> bytes:
    raise RuntimeError("the section of a header alone has no bytes")
