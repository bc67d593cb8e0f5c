"""Writes a traced model for ``detector.c``: weights, compactly, and the plans by which kernels run them.

Weights are stored once, whatever the kernels: the values of the non-zeros (float32; float16 where that is the same, or
is asked for; or indices into a table where few values are shared), and their positions as gaps in a Rice code. The
library lays them out when it is opened, for the kernels that it has chosen. Numbers are little-endian base 128, signed
ones zigzag; sections of bytes are named by their place in the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch

from yolov5_prune_plugin.core.runtime import kernels as k
from yolov5_prune_plugin.core.runtime.graph import Convolution, Graph, Torch, Value
from yolov5_prune_plugin.core.runtime.layout import TILE
from yolov5_prune_plugin.core.runtime.plan import Blob, Choice, Plan, Planner
from yolov5_prune_plugin.errors import PruneError

MAGIC, FORMAT = b"Y5PL", 1
TASKS = ("detect", "segment", "classify")
LEVELS = {"avx2": 1, "avx512": 2}  # others are 0: the library has one kind of kernels
FLOAT32, FLOAT16, CODEBOOK = range(3)
BYTES, NUMBERS, PLANES = range(3)
BY_PIXEL, BY_ROW, BY_COLUMN, ALIKE = range(4)
DECODED, PLACED, CLASSIFIED = range(3)
MOST_SHARED = 4096  # different values that a layer may have to be stored by a table
MOST_OUTPUTS = 8


class Numbers:
    """Whole numbers as they are stored."""

    def __init__(self) -> None:
        self._made = bytearray()

    def add(self, *values: int) -> None:
        """Append some."""
        for value in values:
            value = int(value)
            rest = (value << 1) if value >= 0 else (-value << 1) - 1
            while rest > 127:
                self._made.append(rest & 127 | 128)
                rest >>= 7
            self._made.append(rest)

    def __bytes__(self) -> bytes:
        return bytes(self._made)


class Sections:
    """Bytes at places that are known before what names them is written."""

    def __init__(self, room: int) -> None:
        self.first, self.size = room, room
        self.parts: list[bytes] = []
        self._known: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        """Put bytes in, the same ones once; where they are."""
        if data not in self._known:
            self._known[data] = self.size
            self.parts.append(data)
            self.size += len(data)
        return self._known[data]


@dataclass
class Stored:
    """Weights of a layer before folding, and what they are multiplied with.

    Attributes:
        weight: [out, taps] float32.
        scale: [out] float64, or None.
        bias: [out] float32.
    """

    weight: np.ndarray
    scale: Optional[np.ndarray]
    bias: np.ndarray


def stored(c: Convolution, half: bool) -> Stored:
    """The weights of a convolution as they are stored: those of the model, if folding them again gives the same.

    Args:
        c: Which.
        half: Whether values are rounded to float16.
    """
    weight, scale = c.weight.reshape(len(c.weight), -1), None
    if c.unfolded is not None and c.scale is not None:
        raw = c.unfolded.reshape(weight.shape)
        if torch.equal((raw.double() * c.scale.view(-1, 1)).float(), weight):
            weight, scale = raw, c.scale.double().numpy()
    values = np.ascontiguousarray(weight.numpy(), np.float32)
    if half:
        values = _halved(values)
    return Stored(values, scale, np.ascontiguousarray(c.bias.numpy(), np.float32))


def _halved(values: np.ndarray) -> np.ndarray:
    """In the precision of float16; a layer with larger numbers than that holds stays as it is."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).astype(np.float32)
    return rounded if np.isfinite(rounded).all() else values


def bits_of(values: np.ndarray, count: int) -> bytes:
    """Whole numbers, each of ``count`` bits, the lowest bit first.

    Args:
        values: Not negative.
        count: Bits.
    """
    bits = (values.astype(np.uint64)[:, None] >> np.arange(count, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def rice(gaps: np.ndarray) -> tuple[int, bytes]:
    """Gaps in the Rice code that takes the least room: its parameter, and the bits.

    Args:
        gaps: Not negative.
    """
    if not len(gaps):
        return 0, b""
    gaps = gaps.astype(np.int64)
    best = min(range(24), key=lambda low: int((gaps >> low).sum()) + len(gaps) * (1 + low))
    high = gaps >> best
    lengths = high + 1 + best
    ends = np.cumsum(lengths)
    bits = np.zeros(int(ends[-1]), np.uint8)
    stops = ends - 1 - best  # the one after so many zeros
    bits[stops] = 1
    for i in range(best):
        bits[stops + 1 + i] = gaps >> i & 1
    return best, np.packbits(bits, bitorder="little").tobytes()


def _positions(kept: np.ndarray) -> tuple[int, np.ndarray, int, bytes]:
    """Output channels that share an entry, the entries' (row, tap), the code's parameter and the code."""
    best: Optional[tuple[int, np.ndarray, int, bytes]] = None
    rows, taps = kept.shape
    least = 0
    for together in (1, 2, 4):
        padded = np.zeros((-(-rows // together) * together, taps), bool)
        padded[:rows] = kept
        found = np.flatnonzero(padded.reshape(-1, together, taps).any(1))
        last = (found // taps + 1) * together > rows
        values = len(found) * together - int(last.sum()) * (-rows % together)
        if together > 1 and values > 1.02 * kept.sum():
            continue  # zeros would be stored as values
        low, code = rice(np.diff(found, prepend=-1) - 1)
        if best is None or len(code) + 3 * values < least:
            best, least = (together, found, low, code), len(code) + 3 * values
    assert best is not None
    return best


def _coded(values: np.ndarray) -> tuple[int, int, int, bytes, bytes]:
    """How values are stored, in the least room: form, bits of an index, form of the table, values, table."""
    half = values.astype(np.float16) if np.abs(values[np.isfinite(values)]).max(initial=0) < 65504 else None
    exact = half is not None and np.array_equal(half.astype(np.float32).view(np.int32), values.view(np.int32))
    plain = half.astype("<f2").tobytes() if exact and half is not None else values.astype("<f4").tobytes()
    form = FLOAT16 if exact else FLOAT32
    book, indices = np.unique(values.view(np.int32), return_inverse=True)
    if 0 < len(book) <= MOST_SHARED:
        bits = max(1, math.ceil(math.log2(len(book))))
        shared = book.view(np.float32)
        table = shared.astype("<f2").tobytes() if exact else shared.astype("<f4").tobytes()
        if len(values) * bits / 8 + len(table) < len(plain):
            return CODEBOOK, bits, form, bits_of(indices.reshape(-1), bits), table
    return form, 0, form, plain, b""


def _add_layer(one: Stored, numbers: Numbers, sections: Sections) -> None:
    together, found, low, code = _positions(one.weight != 0)
    rows, taps = one.weight.shape
    row = (found // taps * together)[:, None] + np.arange(together)[None]
    there = row < rows
    values = one.weight[np.minimum(row, rows - 1), (found % taps)[:, None]][there]
    form, bits, book_form, data, book = _coded(values)
    numbers.add(rows, taps, together, len(found), low, form, bits, book_form)
    numbers.add(*(sections.add(part) for part in (code, data, book, one.bias.astype("<f4").tobytes())))
    numbers.add(0 if one.scale is None else sections.add(one.scale.astype("<f8").tobytes()))


class _Noted(Blob):
    """Constants, and what was put in."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: dict[int, np.ndarray] = {}

    def add(self, array: np.ndarray, once: bool = False) -> int:
        place = super().add(array, once)
        self.arrays[place] = np.ascontiguousarray(array)
        return place


@dataclass
class _Piece:
    """Outputs of a convolution that are laid out together."""

    convolution: Convolution
    span: slice
    block: int
    cuts: list[int]
    plane: int
    spatial: np.ndarray
    pixels: int
    ahead: bool
    row: list[int]


class _NotingPlanner(Planner):
    """Makes plans, and keeps of what weights each part of the constants is made."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pieces: list[_Piece] = []

    def _sums(
        self, row: list[int], c: Convolution, choice: Choice, block: int, span: slice, blob: Blob, weight: np.ndarray,
        offsets: np.ndarray, plane: int, panel: Optional[int],
    ) -> None:  # fmt: skip
        super()._sums(row, c, choice, block, span, blob, weight, offsets, plane, panel)
        pixels = row[k.TILE]
        cuts = self._cuts(c, choice, pixels, self.layouts[c.target.shape[2], c.target.shape[3]])
        spatial = offsets[: int(np.prod(c.weight.shape[2:]))]
        self.pieces.append(
            _Piece(c, span, block, cuts, plane, spatial, pixels, row[k.AHEAD] != row[k.AHEAD_COUNTS], row)
        )


@dataclass
class Program:
    """A plan as it goes into a library.

    Attributes:
        level: Of the kernels.
        threads: That it was made for.
        plan: What runs.
        planner: That made it.
        blob: Its constants.
    """

    level: str
    threads: int
    plan: Plan
    planner: _NotingPlanner
    blob: _Noted


def program(graph: Graph, shapes: Any, threads: int, choices: Mapping[str, Choice]) -> Program:
    """Plan a graph.

    Args:
        graph: From ``trace``; joins are rewritten in it.
        shapes: What kernels there are: ``Kernels``, or as much of it as a planner needs.
        threads: That will share the work.
        choices: By the labels of ``choose``.
    """
    from yolov5_prune_plugin.core.runtime import choose

    planner = _NotingPlanner(graph, shapes, threads)
    chosen = choose.applied(planner, choices)
    planner.pieces.clear()
    blob = _Noted()
    plan = planner.plan(chosen, np.zeros(16, np.float32), blob)
    return Program(shapes.target.level, threads, plan, planner, blob)


def _convolutions(graph: Graph) -> list[Convolution]:
    return [operation for operation in graph.operations if isinstance(operation, Convolution)]


def write(
    programs: Sequence[Program], task: str, names: Sequence[str], about: str, half: bool = False
) -> bytes:  # fmt: skip
    """Everything that ``detector.c`` reads.

    Args:
        programs: Of the same model, for one shape.
        task: One of ``TASKS``.
        names: Of the classes.
        about: JSON that the library gives out.
        half: Whether values are rounded to float16.

    Raises:
        PruneError: If there is something in the graph that the library can't do.
    """
    layers = [stored(c, half) for c in _convolutions(programs[0].plan.graph)]
    tails = [_tail(one.plan.graph) for one in programs]
    if tails[0]:
        weight, bias = (x.detach().float().numpy() for x in tails[0][2:])
        layers.append(
            Stored(_halved(weight) if half else np.ascontiguousarray(weight), None, np.ascontiguousarray(bias))
        )

    def written(room: int) -> tuple[bytes, Sections]:
        sections = Sections(room)
        head = Numbers()
        graph = programs[0].plan.graph
        batch, _, height, width = graph.inputs[0].shape
        head.add(FORMAT, k.FIELDS, TASKS.index(task), batch, 3, height, width, len(names))
        head.add(sections.add(b"".join(name.encode() + b"\0" for name in names)), sections.add(about.encode() + b"\0"))
        outputs = [value for value in graph.outputs if isinstance(value, Value)]
        head.add(len(outputs))
        for value in outputs:
            head.add(len(value.shape), *value.shape)
        head.add(len(layers))
        for layer in layers:
            _add_layer(layer, head, sections)
        head.add(len(programs))
        for one, tail in zip(programs, tails):
            head.add(
                LEVELS.get(one.level, 0), one.threads, sections.add(_program(one, tail, sections, len(layers) - 1))
            )
        return MAGIC + bytes(head), sections

    room = 0
    while True:  # places of sections are counted from the end of what names them
        head, sections = written(room)
        if len(head) <= room:
            return b"".join([head, bytes(room - len(head)), *sections.parts])
        room = len(head) + 64


def _program(one: Program, tail: Optional[tuple[Any, ...]], sections: Sections, linear: int) -> bytes:
    made, plan, planner = Numbers(), one.plan, one.planner
    made.add(planner.sizes, one.blob.size, plan.bases)
    made.add(len(planner.masks))
    for size, place in planner.masks.items():
        layout = planner.layouts[size]
        made.add(place, layout.height, layout.width, layout.pitch)
    derived = _pieces(made, one)
    constants = _constants(one, derived, sections)
    made.add(len(constants))
    numbers = bytearray(bytes(made))
    for constant in constants:
        numbers += constant
    made = Numbers()
    made.add(len(plan.fresh))
    for base, floats in plan.fresh.values():
        made.add(base, floats)
    for value in plan.graph.outputs:
        if isinstance(value, Value):
            _output(made, value, plan, tail, linear)
    made.add(len(plan.steps))
    made.add(*plan.steps.reshape(-1).tolist())
    return bytes(numbers) + bytes(made)


def _pieces(made: Numbers, one: Program) -> set[int]:
    """Write the pieces; the places of constants that follow from them."""
    numbers = {c: i for i, c in enumerate(_convolutions(one.plan.graph))}
    derived: set[int] = set()
    made.add(len(one.planner.pieces))
    for piece in one.planner.pieces:
        c, row, arrays = piece.convolution, piece.row, one.blob.arrays
        chunks = arrays[row[k.CHUNK_STARTS]].tolist()
        starts = row[k.STREAMS]
        data = int(arrays[starts].reshape(-1)[0])
        made.add(numbers[c], piece.span.start, piece.span.stop, piece.block, len(piece.cuts) - 1, *piece.cuts)
        made.add(len(chunks) - 1, *chunks)
        outputs = c.weight.shape[0]
        made.add(piece.plane, outputs // c.groups, c.weight.shape[1] * piece.plane)
        made.add(len(piece.spatial), *piece.spatial.tolist())
        made.add(data, starts, row[k.COUNTS], row[k.CHUNK_STARTS], row[k.BIAS])
        made.add(piece.pixels, int(piece.ahead), row[k.AHEAD], row[k.AHEAD_COUNTS])
        derived |= {data, starts, row[k.COUNTS], row[k.CHUNK_STARTS], row[k.BIAS], row[k.AHEAD_COUNTS]}
        if piece.ahead:
            derived.add(row[k.AHEAD])
    return derived


def _constants(one: Program, derived: set[int], sections: Sections) -> list[bytes]:
    """Constants that don't follow from weights."""
    scales = {}
    inner = [array for array in one.blob.arrays.values() if array.dtype == np.int64 and array.size == k.FIELDS]
    for row in [*one.plan.steps.tolist(), *(array.reshape(-1).tolist() for array in inner)]:
        if row[k.KIND] == k.DECODE and row[k.SCALES] in one.blob.arrays:
            scales[row[k.SCALES]] = row[k.HEIGHT], row[k.WIDTH]
    found = []
    for place, array in one.blob.arrays.items():
        made = Numbers()
        if place in derived or not array.size:
            continue
        if place in scales and array.dtype == np.float32:
            height, width = scales[place]
            planes = array.reshape(-1, height * width + TILE)[:, : height * width].reshape(-1, height, width)
            made.add(PLANES, place, len(planes), height, width)
            for plane in planes:
                made.add(*_plane(plane, sections))
        elif array.dtype == np.int64:
            made.add(NUMBERS, place, array.size, *array.reshape(-1).tolist())
        else:
            made.add(BYTES, place, array.nbytes, sections.add(array.tobytes()))
        found.append(bytes(made))
    return found


def _plane(plane: np.ndarray, sections: Sections) -> tuple[int, int]:
    bits = plane.view(np.int32)
    if (bits == bits[0, 0]).all():
        how, kept = ALIKE, plane[:1, :1]
    elif (bits == bits[:, :1]).all():
        how, kept = BY_ROW, plane[:, 0]
    elif (bits == bits[:1]).all():
        how, kept = BY_COLUMN, plane[0]
    else:
        how, kept = BY_PIXEL, plane
    return how, sections.add(np.ascontiguousarray(kept).astype("<f4").tobytes())


def _output(made: Numbers, value: Value, plan: Plan, tail: Optional[tuple[Any, ...]], linear: int) -> None:
    if value in plan.decoded:
        made.add(DECODED, plan.decoded[value])
        return
    source = tail[0] if tail else value
    place = plan.places[source]
    made.add(CLASSIFIED if tail else PLACED, place.base, place.offset, place.image, place.plane, place.row)
    made.add(*source.shape[1:])
    if tail:
        made.add(linear)


def _name(operation: Torch) -> str:
    return str(operation.function._schema.name.split("::")[-1])


def _tail(graph: Graph) -> Optional[tuple[Any, ...]]:
    """A classifier's end, the mean of each channel and a Linear layer: (map, output, weight, bias); None without one.

    Raises:
        PruneError: If torch is left something else to do.
    """
    left = [operation for operation in graph.operations if isinstance(operation, Torch)]
    if not left:
        return None
    source = left[0].arguments[0] if left[0].arguments else None
    pooled = _name(left[0]) in ("mean", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")
    if pooled and _name(left[0]) == "mean":
        dims = left[0].arguments[1] if len(left[0].arguments) > 1 else left[0].keywords.get("dim")
        pooled = sorted(d % 4 for d in dims or ()) == [2, 3]
    names = [_name(operation) for operation in left[1:]]
    if pooled and isinstance(source, Value) and source.is_map and names[-1:] in (["addmm"], ["linear"]):
        last = left[-1]
        if set(names[:-1]) <= {"view", "_unsafe_view", "reshape", "flatten", "alias", "clone", "detach", "dropout"}:
            if names[-1] == "addmm":
                bias, weight = last.arguments[0], last.arguments[2].t()
            else:
                weight, bias = last.arguments[1], last.arguments[2]
            if weight.shape[1] == source.shape[1] and graph.outputs == [last.targets[0]]:
                return source, last.targets[0], weight, bias
    raise PruneError(f"has an operation that no native kernel does: {graph.left_to_torch[0]}", "operation")
