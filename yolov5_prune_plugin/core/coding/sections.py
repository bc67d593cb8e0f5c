"""Sections of a .y5z file: which tensors are in each, checked before anything is decoded."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from yolov5_prune_plugin.core.coding import packing
from yolov5_prune_plugin.core.coding.cursor import Cursor
from yolov5_prune_plugin.errors import PruneError

KINDS = ("weight", "plain")
_DIMENSIONS = 8


@dataclass(frozen=True)
class Section:
    """One or several tensors in a contiguous part of the file.

    Attributes:
        kind: ``weight``: one tensor, with positions and codebook; ``plain``: tensors of one type by their bytes.
        dtype: Name of the tensors' type in ``packing.DTYPES``.
        tensors: Names and shapes.
        data: The bytes, once read; empty in a header.
    """

    kind: str
    dtype: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    data: memoryview = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes that its tensors take once decoded."""
        sizes: Iterable[int] = (math.prod(shape) for _, shape in self.tensors)
        return sum(sizes) * packing.DTYPES[self.dtype][0].itemsize

    @property
    def coded(self) -> packing.Coded:
        """The parts of a weight, found but not decoded.

        Raises:
            PruneError: If they are damaged.
        """
        cursor = Cursor(self.data)
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
        cursor = Cursor(self.data)
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


def checked(entry: Any) -> tuple[Section, int, int]:
    """Check the entry of a section in a header.

    Returns:
        The section without data, its bytes and its checksum.

    Raises:
        PruneError: If the entry is none.
    """
    if not isinstance(entry, dict):
        raise PruneError("has a section that is no JSON object")
    kind, dtype, tensors = entry.get("kind"), entry.get("dtype"), entry.get("tensors")
    if kind not in KINDS or not isinstance(dtype, str) or dtype not in packing.DTYPES:
        raise PruneError(f"has a section of kind {str(kind)[:40]!r} and type {str(dtype)[:40]!r}; this version knows"
                         f" {', '.join(KINDS)} and {', '.join(packing.DTYPES)}")  # fmt: skip
    length, crc = (_whole(entry.get(key), key) for key in ("bytes", "crc32"))
    if not isinstance(tensors, list) or not tensors or (kind == "weight" and len(tensors) != 1):
        raise PruneError(f"has a section {kind} with another number of tensors than it can have")
    return Section(kind, dtype, tuple(_named(one) for one in tensors), memoryview(b"")), length, crc


def _named(one: Any) -> tuple[str, tuple[int, ...]]:
    if not isinstance(one, list) or len(one) != 2 or not isinstance(one[0], str) or not isinstance(one[1], list):
        raise PruneError("has a tensor that is no pair of name and shape")
    if len(one[1]) > _DIMENSIONS:
        raise PruneError(f"has a tensor of {len(one[1])} dimensions; at most {_DIMENSIONS}")
    return one[0], tuple(_whole(number, "a dimension") for number in one[1])


def _whole(number: Any, what: str) -> int:
    if type(number) is not int or not 0 <= number < 1 << 32:
        raise PruneError(f"has {what} of {str(number)[:40]}; it must be a whole number of at most 32 bits")
    return number
