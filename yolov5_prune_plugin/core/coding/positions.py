"""Positions of weights that are not zero: gaps as in Deep Compression, or a bitmap; empty rows and columns apart.

Where rows share their zeros, block by block, the positions of blocks are stored, and the few zeros inside of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from yolov5_prune_plugin.core.coding import entropy
from yolov5_prune_plugin.core.coding.cursor import Cursor, number
from yolov5_prune_plugin.errors import PruneError

WIDTHS = range(1, 9)  # bits of a gap
_ROWS, _COLUMNS, _BITMAP, _BLOCKS = 1, 2, 4, 8  # bits of the byte that says the form
_STRAY = 0.02  # share of what is kept that may be zeros inside of blocks
_MANY = 0.3  # the same where zeros can be among the values
_TABLE = 5  # bits that an entry of a coder's table is taken to cost when forms are compared
_NEAR = 1.002  # ratio of sizes within which the faster form is taken
_FEW = 1 << 20  # gaps below this are counted in an array

Places = NDArray[Any]  # whole numbers
Bits = NDArray[np.uint8]


@dataclass(frozen=True)
class Positions:
    """Positions as they stand in a file.

    Attributes:
        rows: Rows of the matrix: the first dimension of the tensor.
        columns: Columns of the matrix: the product of the other dimensions.
        kept: Entries that are not zero.
        live: Streams of the bitmaps of rows and columns with something in them; None if none was left out.
        width: Bits of a gap; 0 for a bitmap.
        stream: Gaps or bitmap.
        block: Rows that share their zeros; the last block may have fewer.
        strays: Flat positions that are zero all the same, ascending.
    """

    rows: int
    columns: int
    kept: int
    live: tuple[Optional[entropy.Stream], Optional[entropy.Stream]]
    width: int
    stream: Optional[entropy.Stream]
    block: int = 1
    strays: tuple[int, ...] = ()

    def decode(self) -> Places:
        """Decode the flat positions, ascending, [kept].

        Raises:
            PruneError: If they are not ``kept`` positions of the matrix.
        """
        return np.concatenate([*places_in(self.bitmap())])

    def bitmap(self) -> Bits:
        """Decode a bit for each entry of the matrix, eight a byte, the first in the highest.

        Beside the bitmap, an eighth of a byte an entry, this takes four bytes a row and column where some are empty.

        Raises:
            PruneError: If there are not ``kept`` positions, or they are not in the matrix.
        """
        rows, columns = (_live(s, n) for s, n in zip(self.live, (-(-self.rows // self.block), self.columns)))
        height = -(-self.rows // self.block) if rows is None else len(rows)
        wide = self.columns if columns is None else len(columns)
        other = PruneError(f"has other than {self.kept:,} positions within {height} x {wide}")
        found, kept = np.zeros(-(-self.rows * self.columns // 8), np.uint8), 0
        for places in self._inner(height * wide):
            if rows is not None or columns is not None:
                row, column = np.divmod(places, wide)
                row = row if rows is None else rows[row].astype(np.int64)
                places = row * self.columns + (column if columns is None else columns[column])
            for some in self._rows_of(places):
                kept += len(some)
                if kept > self.kept + len(self.strays):
                    raise other
                _set(found, some)
        if kept - self._clear(found) != self.kept:
            raise other
        return found

    def _rows_of(self, places: Places) -> Iterator[Places]:
        """Positions in the matrix, row after row of the blocks at these positions among blocks."""
        if self.block == 1:
            yield places
            return
        row, column = np.divmod(places, self.columns)
        for under in range(self.block):
            there = row * self.block + under
            inside = there < self.rows
            yield there[inside] * self.columns + column[inside]

    def _clear(self, bitmap: Bits) -> int:
        """Clear the bits of zeros inside of blocks; how many there were."""
        if not self.strays:
            return 0
        places = np.array(self.strays, np.int64)
        bits = np.right_shift(np.uint8(128), (places & 7).astype(np.uint8))
        if not (bitmap[places >> 3] & bits).all():
            raise PruneError("has a zero inside of a block where no block is")
        np.bitwise_and.at(bitmap, places >> 3, ~bits)
        return len(places)

    def _inner(self, size: int) -> Iterator[Places]:
        """Positions among the entries of rows and columns that are not empty, ascending, piece by piece."""
        assert self.stream is not None
        outside = PruneError(f"has positions outside its matrix, which has {size:,} entries in use")
        if not self.width and self.stream.count != -(-size // 8):
            raise PruneError("has a bitmap of another size than its rows and columns")
        most, at = (1 << self.width) - 1, 0
        for symbols in self.stream.pieces():
            if self.width:
                found = symbols != most
                ends = at + np.cumsum(symbols.astype(np.int64) + found)
                places, at = ends[found] - 1, int(ends[-1])
                if at > size:  # a skip to the end is none either
                    raise outside
            else:
                places = at + np.flatnonzero(np.unpackbits(symbols).view(bool))
                at += 8 * len(symbols)
                if len(places) and int(places[-1]) >= size:
                    raise outside
            if len(places):
                yield places


def places_in(bitmap: Bits) -> Iterator[Places]:
    """List the positions of bits that are set, ascending, piece by piece; the last may be empty."""
    step = entropy.PIECE // 8
    for start in range(0, len(bitmap), step):
        yield 8 * start + np.flatnonzero(np.unpackbits(bitmap[start : start + step]).view(bool))


def write(mask: NDArray[np.bool_], coder: str = "best") -> bytes:
    """Write the positions of True in the shortest form.

    Args:
        mask: [rows, columns]; at least one entry is True and one False.
        coder: One of ``entropy.CHOICES``.
    """
    single = _write(mask, coder)
    block = _block_of(mask)
    if block == 1:
        return single
    reduced = _reduced(mask, block)
    if reduced.all():
        return single
    inside = np.flatnonzero(np.repeat(reduced, block, 0)[: len(mask)] & ~mask)
    strays = b"".join(number(int(gap)) for gap in np.diff(inside, prepend=-1) - 1)
    inner = _write(reduced, coder)
    blocks = bytes([inner[0] | _BLOCKS, block]) + number(len(inside)) + strays + inner[1:]
    return min(single, blocks, key=len)


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take blocks as a whole where rows share most of their zeros.

    Args:
        mask: [rows, columns].

    Returns:
        The mask itself where they don't, or where nothing is missing in blocks.
    """
    block = _block_of(mask, _MANY)
    if block == 1 or not _extra(mask, block):
        return mask
    return np.repeat(_reduced(mask, block), block, 0)[: len(mask)]


def _block_of(mask: NDArray[np.bool_], share: float = _STRAY) -> int:
    """Rows that share their zeros, but for a share of what is kept; 1 if none do."""
    kept, found = int(np.count_nonzero(mask)), 1
    for block in (2, 4, 8, 16) if len(mask) > 1 and _extra(mask, 2) <= int(share * kept) else (3,):
        if block > len(mask) or _extra(mask, block) > int(share * kept):
            break
        found = block
    return found


def _reduced(mask: NDArray[np.bool_], block: int) -> NDArray[np.bool_]:
    """Blocks that have an entry, [ceil(rows / block), columns]."""
    found: NDArray[np.bool_] = np.logical_or.reduceat(mask, np.arange(0, len(mask), block), axis=0)
    return found


def _extra(mask: NDArray[np.bool_], block: int) -> int:
    """Entries that blocks have beside those of the mask."""
    counts = np.count_nonzero(_reduced(mask, block), axis=1)
    counts[:-1] *= block
    counts[-1] *= len(mask) - block * (len(counts) - 1)
    return int(counts.sum()) - int(np.count_nonzero(mask))


def _write(mask: NDArray[np.bool_], coder: str) -> bytes:
    rows, columns = mask.any(1), mask.any(0)
    forms = []
    for drop_rows in {False, not rows.all()}:
        for drop_columns in {False, not columns.all()}:
            inner = mask[rows] if drop_rows else mask
            inner = inner[:, columns] if drop_columns else inner
            saved = sum(entropy.entropy(np.bincount(live)) + 3 for live, drop in
                        ((rows, drop_rows), (columns, drop_columns)) if drop)  # fmt: skip
            size, width = _shortest(inner)
            forms.append((size + saved, drop_rows, drop_columns, width))
    _, drop_rows, drop_columns, width = min(forms)
    inner = mask[rows] if drop_rows else mask
    inner = np.ascontiguousarray(inner[:, columns] if drop_columns else inner).reshape(-1)
    form = drop_rows * _ROWS | drop_columns * _COLUMNS
    live = b"".join(entropy.write(np.packbits(some), 256, coder) for some, drop in
                    ((rows, drop_rows), (columns, drop_columns)) if drop)  # fmt: skip
    packed = np.packbits(inner)
    bitmap = bytes([form | _BITMAP]) + live + number(len(packed)) + entropy.write(packed, 256, coder)
    if not width:
        return bitmap
    symbols = _symbols(_gaps(inner), width)
    gaps = bytes([form]) + live + bytes([width]) + number(len(symbols)) + entropy.write(symbols, 1 << width, coder)
    return bitmap if len(bitmap) * _NEAR < len(gaps) else gaps  # a pattern may show in one of them only


def read(cursor: Cursor, rows: int, columns: int, kept: int) -> Positions:
    """Find the parts of positions without decoding them.

    Args:
        cursor: At their first byte; left behind their last.
        rows: Rows of the matrix.
        columns: Columns of the matrix.
        kept: Entries that are not zero, 0 < kept < rows * columns.

    Raises:
        PruneError: If they end early or have a form that is none of ours.
    """
    form = cursor.byte()
    if form > (_ROWS | _COLUMNS | _BITMAP | _BLOCKS):
        raise PruneError(f"has positions of form {form}; this version knows 0 to 15")
    block, strays = _read_blocks(cursor, rows, columns, kept) if form & _BLOCKS else (1, ())
    height, rows = rows, -(-rows // block)
    live_rows = entropy.read(cursor, -(-rows // 8), 256) if form & _ROWS else None
    live_columns = entropy.read(cursor, -(-columns // 8), 256) if form & _COLUMNS else None
    width = 0 if form & _BITMAP else cursor.byte()
    count = cursor.number()
    if width not in (0, *WIDTHS) or bool(form & _BITMAP) != (width == 0):
        raise PruneError(f"has gaps of {width} bits; they have 1 to 8")
    if not 0 < count <= (rows * columns if width else -(-rows * columns // 8)):
        raise PruneError(f"has {count:,} gaps in a matrix of {rows * columns:,}")
    stream = entropy.read(cursor, count, 256 if not width else 1 << width)
    return Positions(height, columns, kept, (live_rows, live_columns), width, stream, block, strays)


def _read_blocks(cursor: Cursor, rows: int, columns: int, kept: int) -> tuple[int, tuple[int, ...]]:
    """Rows in a block, and positions of zeros inside of blocks."""
    block, many, size = cursor.byte(), cursor.number(), rows * columns
    if not 2 <= block <= rows:
        raise PruneError(f"has blocks of {block} rows in a matrix of {rows}")
    if many > int(_STRAY * kept):
        raise PruneError(f"has {many:,} zeros inside of blocks; it may have {int(_STRAY * kept):,}")
    at, found = -1, []
    for _ in range(many):
        at += 1 + cursor.number()
        if at >= size:
            raise PruneError(f"has a zero inside of blocks at {at:,}, outside its matrix of {size:,}")
        found.append(at)
    return block, tuple(found)


def _live(stream: Optional[entropy.Stream], size: int) -> Optional[NDArray[np.uint32]]:
    """Numbers of the rows or columns that are not empty."""
    if stream is None:
        return None
    bits = stream.decode()
    if size % 8:
        bits[-1] &= 0xFF << -size % 8 & 0xFF
    found = np.empty(sum(len(places) for places in places_in(bits)), np.uint32)
    at = 0
    for places in places_in(bits):
        found[at : at + len(places)] = places
        at += len(places)
    return found


def _set(bitmap: Bits, places: Places) -> None:
    """Set bits at ascending positions."""
    where = places >> 3
    first = np.flatnonzero(np.diff(where, prepend=-1))
    bits = np.right_shift(np.uint8(128), (places & 7).astype(np.uint8))
    bitmap[where[first]] |= np.add.reduceat(bits, first, dtype=np.uint8)


def _gaps(flat: NDArray[np.bool_]) -> Places:
    """Zeros before each True that stand behind the one before it."""
    return np.diff(np.flatnonzero(flat), prepend=-1) - 1


def _symbols(gaps: Places, width: int) -> NDArray[np.uint8]:
    """A gap g as g // most times the symbol ``most``, which skips so many zeros, and then g % most."""
    most = (1 << width) - 1
    skips, rest = np.divmod(gaps, most)
    found = np.full(len(gaps) + int(skips.sum()), most, np.uint8)
    found[np.cumsum(skips + 1) - 1] = rest
    return found


def _shortest(inner: NDArray[np.bool_]) -> tuple[float, int]:
    """Bytes, nearly, and bits of a gap, or 0 for a bitmap; of forms that are as short, the one of fewest symbols."""
    flat = np.ascontiguousarray(inner).reshape(-1)
    packed = np.bincount(np.packbits(flat), minlength=1)
    found = [(entropy.entropy(packed) + len(packed) * _TABLE / 8, -(-flat.size // 8), 0)]
    gaps = _gaps(flat)
    largest = int(gaps.max())
    if largest < _FEW:
        count = np.bincount(gaps)
        value = np.flatnonzero(count)
        count = count[value]
    else:
        value, count = np.unique(gaps, return_counts=True)
    for width in WIDTHS:
        most = (1 << width) - 1
        symbols = np.bincount(value % most, count, most + 1).astype(np.int64)
        symbols[most] += int((value // most * count).sum())
        table = (int(np.flatnonzero(symbols)[-1]) + 1) * _TABLE / 8
        found.append((entropy.entropy(symbols) + table, int(symbols.sum()), width))
    near = min(found)[0] * _NEAR
    size, _, width = min((form for form in found if form[0] <= near), key=lambda form: form[1])
    return size, width
