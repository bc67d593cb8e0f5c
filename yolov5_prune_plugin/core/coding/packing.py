"""Tensors as bytes and back, bit for bit: weights as positions, codebook and indices; others by their bytes."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov5_prune_plugin.core.coding import entropy, positions
from yolov5_prune_plugin.core.coding.cursor import Cursor, number
from yolov5_prune_plugin.core.coding.even import MOST, spacing
from yolov5_prune_plugin.errors import PruneError

DTYPES: dict[str, tuple[torch.dtype, torch.dtype, Any]] = {  # as it is named in a file: itself, and as whole numbers
    "F16": (torch.float16, torch.int16, np.uint16),
    "BF16": (torch.bfloat16, torch.int16, np.uint16),
    "F32": (torch.float32, torch.int32, np.uint32),
    "F64": (torch.float64, torch.int64, np.uint64),
    "I64": (torch.int64, torch.int64, np.uint64),
    "I32": (torch.int32, torch.int32, np.uint32),
    "U8": (torch.uint8, torch.uint8, np.uint8),
    "BOOL": (torch.bool, torch.uint8, np.uint8),
}
_ZERO = {"F16": 1 << 15, "BF16": 1 << 15, "F32": 1 << 31, "F64": 1 << 63}  # the zero with a sign
LARGEST = 256  # entries of a codebook
_EVEN = LARGEST + 1  # in the place of their number: evenly spaced values follow


@dataclass(frozen=True)
class Coded:
    """A weight as it stands in a file.

    Attributes:
        shape: Shape of the tensor.
        dtype: Name of its type in ``DTYPES``.
        kept: Entries that have a position: those that are not zero, and ``zeros``.
        where: Their positions; None if all or none are kept.
        position_bytes: Bytes of the positions.
        codebook: The values that occur, ascending as whole numbers, or multiples of a step, ascending; None if each
            entry has its own.
        codebook_bytes: Bytes of the codebook; 0 without one.
        streams: Indices into the codebook; without one the bytes of the values, highest first.
        zeros: Entries with a position that are zero all the same: only among multiples of a step, in blocks.
        even: Whether the codebook has the multiples of a step.
    """

    shape: tuple[int, ...]
    dtype: str
    kept: int
    where: Optional[positions.Positions]
    position_bytes: int
    codebook: Optional[NDArray[Any]]
    streams: tuple[entropy.Stream, ...]
    codebook_bytes: int = 0
    zeros: int = 0
    even: bool = False

    @property
    def weights(self) -> int:
        """Number of entries of the tensor."""
        return math.prod(self.shape)

    @property
    def value_bytes(self) -> int:
        """Bytes of indices or values."""
        return sum(stream.size for stream in self.streams)

    def decode(self) -> Tensor:
        """Decode the tensor.

        Raises:
            PruneError: If a stream is damaged.
        """
        bitmap = None if self.where is None else self.where.bitmap()
        whole = np.zeros(self.weights, DTYPES[self.dtype][2])
        if self.codebook is None:
            for index, stream in enumerate(self.streams):
                plane = _plane(whole, index)
                for places, values in _taken(stream, bitmap, self.kept):
                    plane[places] = values
        elif self.streams:
            zeros = 0
            for places, symbols in _taken(self.streams[0], bitmap, self.kept):
                whole[places] = self.codebook[symbols]
                zeros += int(np.count_nonzero(symbols == len(self.codebook) // 2)) if self.even else 0
            if zeros != self.zeros:
                raise PruneError(f"has {zeros:,} zeros among its positions, and announces {self.zeros:,}")
        else:
            for places in _places(bitmap, self.kept):
                whole[places] = self.codebook[0]
        return _tensor(whole, self.shape, self.dtype)


def write_weight(tensor: Tensor, coder: str = "best") -> bytes:
    """Pack a tensor with zeros, or few values, or neither. A zero with a sign becomes one without.

    Args:
        tensor: Any shape, of a type in ``DTYPES``.
        coder: One of ``entropy.CHOICES``.
    """
    name = dtype_name(tensor)
    flat = _whole(tensor)
    if name in _ZERO:
        flat = np.where(flat == _ZERO[name], 0, flat)
    rows, mask = _rows(tuple(tensor.shape)), flat != 0
    kept = int(np.count_nonzero(mask))
    if not kept:
        return number(0)
    values = flat if kept == flat.size else flat[mask]
    codebook = _values_of(values)
    multiples = None if codebook is None or name not in _ZERO else _multiples(codebook, name)
    forms = []
    if codebook is not None:
        symbols = _indices(values, codebook)
        stored = codebook.astype(codebook.dtype.newbyteorder("<")).tobytes()
        head = number(len(codebook)) + stored
        forms.append(head + (entropy.write(symbols, len(codebook), coder) if len(codebook) > 1 else b""))
    if codebook is None or len(forms[0]) > kept:
        forms.append(number(0) + b"".join(entropy.write(plane, 256, coder) for plane in _planes(values)))
    if multiples is not None:
        forms.append(multiples.write(values, coder))
    where = positions.write(mask.reshape(rows, -1), coder) if kept < flat.size else b""
    single = number(kept) + where + min(forms, key=len)
    filled = positions.filled(mask.reshape(rows, -1)).reshape(-1) if multiples is not None else mask
    if filled is mask or multiples is None:
        return single
    kept = int(np.count_nonzero(filled))
    where = positions.write(filled.reshape(rows, -1), coder) if kept < flat.size else b""
    return min(single, number(kept) + where + multiples.write(flat[filled], coder), key=len)


def read_weight(cursor: Cursor, shape: tuple[int, ...], dtype: str) -> Coded:
    """Find the parts of a weight without decoding it.

    Args:
        cursor: At its first byte; left behind its last.
        shape: Shape of the tensor.
        dtype: Name of its type in ``DTYPES``.

    Raises:
        PruneError: If it ends early, or is none of ours.
    """
    size, kept = math.prod(shape), cursor.number()
    if kept > size:
        raise PruneError(f"keeps {kept:,} of {size:,} weights")
    if not kept:
        return Coded(shape, dtype, 0, None, 0, None, ())
    before, where = cursor.left, None
    if kept < size:
        rows = _rows(shape)
        where = positions.read(cursor, rows, size // rows, kept)
    position_bytes = before - cursor.left
    kind = np.dtype(DTYPES[dtype][2])
    entries = cursor.number()
    if entries == _EVEN:
        return _read_even(cursor, (shape, dtype, kept, where, position_bytes))
    if entries > min(LARGEST, kept):
        raise PruneError(f"has a codebook of {entries} for {kept:,} weights")
    if not entries:
        planes = tuple(entropy.read(cursor, kept, 256) for _ in range(kind.itemsize))
        return Coded(shape, dtype, kept, where, position_bytes, None, planes)
    codebook = np.frombuffer(cursor.read(entries * kind.itemsize), kind.newbyteorder("<")).astype(kind)
    streams = (entropy.read(cursor, kept, entries),) if entries > 1 else ()
    return Coded(shape, dtype, kept, where, position_bytes, codebook, streams, codebook.nbytes)


def _read_even(cursor: Cursor, found: tuple[Any, ...]) -> Coded:
    shape, dtype, kept, where, position_bytes = found
    before, most, kind = cursor.left, cursor.number(), np.dtype(DTYPES[dtype][2])
    if not 1 <= most <= MOST:
        raise PruneError(f"has values of up to {most:,} steps; there are 1 to {MOST}")
    step = _tensor(np.frombuffer(cursor.read(kind.itemsize), kind.newbyteorder("<")).astype(kind), (), dtype)
    if not 0 < float(step) < math.inf:
        raise PruneError(f"has evenly spaced values with a step of {float(step):g}; it is above 0 and finite")
    zeros = cursor.number()
    if zeros > kept:
        raise PruneError(f"announces {zeros:,} zeros among {kept:,} weights")
    size = before - cursor.left
    streams = (entropy.read(cursor, kept, 2 * most + 1),)
    return Coded(shape, dtype, kept, where, position_bytes, _table(step, most), streams, size, zeros, even=True)


def write_plain(tensors: Sequence[Tensor], coder: str = "best") -> bytes:
    """Pack tensors of one type by their bytes: first the highest of all numbers, then the next.

    Args:
        tensors: Any shapes.
        coder: One of ``entropy.CHOICES``.
    """
    values = np.concatenate([_whole(tensor) for tensor in tensors])
    return b"".join(entropy.write(plane, 256, coder) for plane in _planes(values))


def read_plain(cursor: Cursor, shapes: Sequence[tuple[int, ...]], dtype: str) -> list[Tensor]:
    """Unpack what ``write_plain`` wrote.

    Args:
        cursor: At its first byte; left behind its last.
        shapes: Shapes of the tensors, in their order.
        dtype: Name of their type in ``DTYPES``.

    Raises:
        PruneError: If it ends early, or is none of ours.
    """
    sizes = [math.prod(shape) for shape in shapes]
    kind = np.dtype(DTYPES[dtype][2])
    found = [np.zeros(size, kind) for size in sizes]
    streams = [entropy.read(cursor, sum(sizes), 256) for _ in range(kind.itemsize if sum(sizes) else 0)]
    for index, stream in enumerate(streams):
        reader = entropy.Reader(stream)
        for flat in found:
            plane = _plane(flat, index)
            for places in _places(None, len(flat)):
                plane[places] = reader.take(places.stop - places.start)
    return [_tensor(flat, shape, dtype) for flat, shape in zip(found, shapes)]


def dtype_name(tensor: Tensor) -> str:
    """Name a tensor's type as a file does.

    Raises:
        PruneError: If it has none.
    """
    for name, (kind, _, _) in DTYPES.items():
        if tensor.dtype == kind:
            return name
    raise PruneError(f"a tensor of {tensor.dtype} cannot be packed; there are {', '.join(DTYPES)}")


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 1 else 1


def _whole(tensor: Tensor) -> NDArray[Any]:
    """The bits of a tensor as whole numbers, flat."""
    _, whole, kind = DTYPES[dtype_name(tensor)]
    return tensor.detach().cpu().contiguous().reshape(-1).view(whole).numpy().view(kind)


def _tensor(flat: NDArray[Any], shape: tuple[int, ...], dtype: str) -> Tensor:
    kind, whole, _ = DTYPES[dtype]
    if dtype == "BOOL" and flat.size and int(flat.max()) > 1:
        raise PruneError("has a truth value that is neither 0 nor 1")
    numbers = flat if whole == torch.uint8 else flat.view(flat.dtype.str.replace("u", "i"))
    return torch.from_numpy(numbers).view(kind).reshape(shape)


def _values_of(values: NDArray[Any]) -> Optional[NDArray[Any]]:
    """The different values, ascending, if they are few enough for a codebook."""
    if values.dtype.itemsize <= 2:
        found = np.flatnonzero(np.bincount(values)).astype(values.dtype)
    else:
        sample = np.unique(values[: 64 * LARGEST])
        found = sample if len(sample) > LARGEST else np.unique(values)
    return found if len(found) <= LARGEST else None


@dataclass(frozen=True)
class _Multiples:
    """A codebook of evenly spaced values: symbol s is (s - most) steps."""

    codebook: NDArray[Any]  # the values that occur
    symbols: NDArray[np.uint8]  # of each of them
    step: NDArray[Any]
    most: int

    def write(self, values: NDArray[Any], coder: str) -> bytes:
        """Pack values that are in the codebook, or zero, as whole numbers."""
        kept = values != 0
        symbols = np.full(len(values), self.most, np.uint8)
        symbols[kept] = self.symbols[_indices(values[kept], self.codebook)]
        stored = self.step.astype(self.step.dtype.newbyteorder("<")).tobytes()
        head = number(_EVEN) + number(self.most) + stored + number(int(np.count_nonzero(~kept)))
        return head + entropy.write(symbols, 2 * self.most + 1, coder)


def _multiples(codebook: NDArray[Any], dtype: str) -> Optional[_Multiples]:
    """See a codebook as multiples of a step, if its values are, to the bit."""
    values = _tensor(codebook.copy(), (len(codebook),), dtype)
    if not bool(torch.isfinite(values).all()):
        return None
    step = torch.tensor(spacing(values.double().numpy()), dtype=torch.float64).to(values.dtype)
    if not 0 < float(step) < math.inf:
        return None
    places = np.rint(values.double().numpy() / float(step)).astype(np.int64)
    most = int(np.abs(places).max())
    if most > MOST or not np.array_equal(_table(step, most)[places + most], codebook):
        return None
    return _Multiples(codebook, (places + most).astype(np.uint8), _whole(step), most)


def _table(step: Tensor, most: int) -> NDArray[Any]:
    """The multiples of a step from -most to most in its type, as whole numbers; in double precision before."""
    found = _whole((torch.arange(-most, most + 1, dtype=torch.float64) * step.double()).to(step.dtype))
    return np.where(np.arange(-most, most + 1) == 0, found.dtype.type(0), found)


def _indices(values: NDArray[Any], codebook: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype.itemsize > 2:
        found: NDArray[np.uint8] = np.searchsorted(codebook, values).astype(np.uint8)
        return found
    table = np.zeros(int(codebook[-1]) + 1, np.uint8)
    table[codebook] = np.arange(len(codebook))
    found = table[values]
    return found


def _planes(values: NDArray[Any]) -> list[NDArray[np.uint8]]:
    """The bytes of whole numbers, highest first; the same on machines of either byte order."""
    return [(values >> np.array(8 * i, values.dtype)).astype(np.uint8) for i in reversed(range(values.dtype.itemsize))]


def _plane(values: NDArray[Any], index: int) -> NDArray[np.uint8]:
    """The bytes at one place of all numbers, as a view; 0 is the highest."""
    size = values.dtype.itemsize
    return values.view(np.uint8).reshape(-1, size)[:, size - 1 - index if sys.byteorder == "little" else index]


def _places(bitmap: Optional[positions.Bits], kept: int) -> Iterator[Any]:
    """Where the entries are that are kept, piece by piece: slices where all are, or whole numbers."""
    if bitmap is not None:
        yield from positions.places_in(bitmap)
        return
    for start in range(0, kept, entropy.PIECE):
        yield slice(start, min(kept, start + entropy.PIECE))


def _taken(stream: entropy.Stream, bitmap: Optional[positions.Bits], kept: int) -> Iterator[tuple[Any, Any]]:
    """The same, with the symbols of a stream for them."""
    reader = entropy.Reader(stream)
    for places in _places(bitmap, kept):
        yield places, reader.take(places.stop - places.start if isinstance(places, slice) else len(places))
