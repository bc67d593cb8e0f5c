"""Reading and writing bytes in order: fixed numbers of them, and whole numbers of any size (LEB128)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional, Union

from yolov5_prune_plugin.errors import PruneError

Source = Callable[[int, int], Union[bytes, memoryview]]  # (start, count) -> so many bytes
_LONGEST = 9  # bytes of a number: 63 bits, enough for any offset and count
_BLOCK = 4096  # bytes that are read at once where small things stand


@dataclass(frozen=True)
class Payload:
    """Bytes of a source that are read when they are needed, and held by nobody before.

    Attributes:
        source: Where they are.
        start: The first of them.
        size: How many.
    """

    source: Source = field(repr=False)
    start: int
    size: int

    def load(self) -> memoryview:
        """Read them."""
        return memoryview(self.source(self.start, self.size))


class Cursor:
    """A place in a source of bytes that only moves forward, and never past its end."""

    def __init__(self, data: Union[memoryview, Source], size: Optional[int] = None) -> None:
        """Begin at the first byte.

        Args:
            data: The bytes, or what reads them.
            size: How many there are, where ``data`` reads them.
        """
        if isinstance(data, memoryview):
            held = data
            self._source: Source = lambda start, count: held[start : start + count]
            self._size = len(held)
        else:
            self._source, self._size = data, size or 0
        self._at = 0
        self._block, self._block_at = memoryview(b""), 0

    @property
    def left(self) -> int:
        """Bytes behind the cursor."""
        return self._size - self._at

    def read(self, count: int) -> memoryview:
        """Read the next bytes.

        Raises:
            PruneError: If there are not so many.
        """
        start = self._skip(count)
        offset = start - self._block_at
        if not 0 <= offset <= offset + count <= len(self._block):
            wanted = min(max(count, _BLOCK), self._size - start)
            self._block, self._block_at, offset = memoryview(self._source(start, wanted)), start, 0
        return self._block[offset : offset + count]

    def payload(self, count: int) -> Payload:
        """Pass over the next bytes, which are read later.

        Raises:
            PruneError: If there are not so many.
        """
        return Payload(self._source, self._skip(count), count)

    def byte(self) -> int:
        """Read the next byte."""
        return self.read(1)[0]

    def number(self) -> int:
        """Read the next whole number: seven bits a byte, lowest first; the top bit says that more follow.

        Raises:
            PruneError: If it is longer than any number of the format.
        """
        value = 0
        for index in range(_LONGEST):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value
        raise PruneError("a number has no end")

    def close(self) -> None:
        """Check that all was read.

        Raises:
            PruneError: If bytes are left.
        """
        if self.left:
            raise PruneError(f"has {self.left:,} bytes more than its content explains")

    def _skip(self, count: int) -> int:
        if count > self.left:
            raise PruneError(f"ends early: {count:,} bytes are announced where {self.left:,} are left")
        self._at += count
        return self._at - count


def number(value: int) -> bytes:
    """Write a whole number >= 0 as ``Cursor.number`` reads it."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
