"""Reading and writing bytes in order: fixed numbers of them, and whole numbers of any size (LEB128)."""

from __future__ import annotations

from yolov5_prune_plugin.errors import PruneError

_LONGEST = 9  # bytes of a number: 63 bits, enough for any offset and count


class Cursor:
    """A place in a buffer that only moves forward, and never past its end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """Bytes behind the cursor."""
        return len(self._data) - self._at

    def read(self, count: int) -> memoryview:
        """Read the next bytes, without a copy.

        Raises:
            PruneError: If there are not so many.
        """
        if count > self.left:
            raise PruneError(f"ends early: {count:,} bytes are announced where {self.left:,} are left")
        self._at += count
        return self._data[self._at - count : self._at]

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


def number(value: int) -> bytes:
    """Write a whole number >= 0 as ``Cursor.number`` reads it."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
