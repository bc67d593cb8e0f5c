"""Steps for the kernels, and the memory that they work in, of a traced model."""

from __future__ import annotations

import contextlib
import mmap
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Optional, Union

import numpy as np

from yolov5_prune_plugin.core.runtime import kernels as k
from yolov5_prune_plugin.core.runtime.graph import (
    Convolution,
    Decode,
    Graph,
    Join,
    Operation,
    Part,
    Pool,
    Torch,
    Upsample,
    Value,
)
from yolov5_prune_plugin.core.runtime.layout import TILE, Layout, is_direct, layouts, odd_lines, reach
from yolov5_prune_plugin.core.runtime.native import Kernels
from yolov5_prune_plugin.core.runtime.streams import build

HUGE = 2 << 20  # bytes of a large page
FIRST_CACHE = 36 << 10  # bytes of input that a tile may use before input channels are cut in blocks
PACKED_LARGE = 1 << 20  # bytes of a packed map from which on it is packed in panels
PANEL_CACHE = 1 << 20  # bytes of a panel's input
DECODED = 384 << 10  # bytes of a detector's map that are made and decoded at once
WHOLE = 4  # output channels of which an output of the model has room for a multiple
SECOND_CACHE = 160 << 10  # bytes of weights, and of sums, that are used again and again


@dataclass(frozen=True)
class Choice:
    """How a convolution is computed.

    Attributes:
        block: Output channels that are computed at once, 1, 2 or 4.
        vectors: Vectors of pixels in a tile.
        cached: Bytes of input that a tile uses at most before input channels are cut in blocks; 0 never cuts.
        ahead: What is fetched of the next tile meanwhile: 0 nothing, 1 where its output goes, 2 its input, too.
    """

    block: int
    vectors: int
    cached: int = FIRST_CACHE
    ahead: int = 0


@dataclass
class Place:
    """Where a map lies.

    Attributes:
        base: Which buffer.
        offset: Bytes before the first pixel of the first channel.
        image: Floats from an image to the next.
        plane: Floats from a channel to the next.
        row: Floats from a row to the next.
    """

    base: int
    offset: int
    image: int
    plane: int
    row: int


class Blob:
    """Constants, one after the other."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.size = 0
        self._known: dict[bytes, int] = {}

    def add(self, array: np.ndarray, once: bool = False) -> int:
        """Put an array in; bytes before it.

        Args:
            array: What.
            once: Whether the same bytes may be used for several.
        """
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        key = data.tobytes() if once else b""
        if key and key in self._known:
            return self._known[key]
        place = self.size
        padded = -(-len(data) // 64) * 64
        self.parts.append(np.concatenate([data, np.zeros(padded - len(data), np.uint8)]))
        self.size += padded
        if key:
            self._known[key] = place
        return place

    def buffer(self) -> np.ndarray:
        """All of it, on a line of the cache."""
        made = aligned(max(self.size, 64) // 4).view(np.uint8)
        place = 0
        for part in self.parts:
            made[place : place + len(part)] = part
            place += len(part)
        return made


def aligned(floats: int) -> np.ndarray:
    """[floats] float32 zeros from the beginning of a line of the cache on."""
    if floats * 4 < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        raw = np.zeros(floats + 16, np.float32)
        shift = -raw.ctypes.data % 64 // 4
        return raw[shift : shift + floats]
    # a tile touches more planes than the processor has entries for small pages
    memory = mmap.mmap(-1, floats * 4 + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, np.float32)
    shift = -raw.ctypes.data % HUGE // 4
    return raw[shift : shift + floats]


@dataclass
class Span:
    """Steps [start, stop) of the kernels."""

    start: int
    stop: int


@dataclass
class Layer:
    """Steps of one convolution.

    Attributes:
        convolution: What it is.
        choice: How it is computed.
        steps: Which of the plan's.
    """

    convolution: Convolution
    choice: Choice
    steps: Span


@dataclass
class Plan:
    """What runs, in what memory.

    Attributes:
        graph: The model.
        steps: [n, FIELDS] int64.
        weights: Bytes.
        workspace: Floats.
        sequence: Spans of steps, and what torch does between them.
        places: Of maps.
        fresh: Maps in memory that is new in each frame, the whole batch: value -> (base, floats).
        decoded: Outputs that the kernels write as torch has them: value -> base.
        bases: How many buffers there are.
        threads: That may run it at most.
        together: Images of a batch that go through the steps together.
        origins: Floats before the first pixel of a plane.
        layers: The convolutions.
    """

    graph: Graph
    steps: np.ndarray
    weights: np.ndarray
    workspace: np.ndarray
    sequence: list[Union[Span, Torch]]
    places: dict[Value, Place]
    fresh: dict[Value, tuple[int, int]]
    decoded: dict[Value, int]
    bases: int
    threads: int
    together: int
    origins: dict[Value, int] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)


class Planner:
    """Lays a graph out in memory; then makes plans with choices.

    Args:
        graph: From ``trace``; joins are rewritten in it.
        kernels: Compiled.
        threads: That will share the work.
        together: Images of a batch that go through all layers together, where the kernels do all up to the outputs;
            None takes the whole batch. Their number is one that divides the batch.
    """

    def __init__(self, graph: Graph, kernels: Kernels, threads: int, together: Optional[int] = None) -> None:
        self.graph, self.kernels, self.threads = graph, kernels, threads
        self.images = graph.inputs[0].shape[0]
        self.batch = max(i for i in range(1, (together or self.images) + 1) if self.images % i == 0)
        self._copy_what_cannot_be_placed()
        self.layouts = layouts(graph)
        self._decoding: dict[Value, int] = {}  # maps that are decoded as they are made: place of the step
        self._place()
        if self.batch < self.images and not self._kernels_do_all():
            self.batch = self.images
            self._place()
        self.masks: dict[tuple[int, int], int] = {}
        for size, layout in self.layouts.items():
            self.masks[size] = self._reserve(len(layout.mask()))
        self.packed_at = self._reserve(max(map(self._packed_floats, self._convolutions()), default=0) + TILE)
        pools = [operation for operation in graph.operations if isinstance(operation, Pool)]
        self.scratch_size = max((self._scratch(pool) for pool in pools), default=0)
        self.scratch_at = self._reserve(self.scratch_size * threads)
        self.panel_floats = 3 * PANEL_CACHE // 8
        self.panels_at = self._reserve((self.panel_floats + TILE) * threads)
        self._reserve(2 * TILE)

    def workspace(self) -> np.ndarray:
        """Memory as the kernels need it."""
        made = aligned(self.sizes)
        for size, place in self.masks.items():
            mask = self.layouts[size].mask()
            made[place // 4 : place // 4 + len(mask)].view(np.int32)[:] = mask
        return made

    def plan(
        self, choices: dict[Convolution, Choice], workspace: Optional[np.ndarray] = None, blob: Optional[Blob] = None
    ) -> Plan:
        """Make all steps.

        Args:
            choices: For each convolution.
            workspace: To use; None makes one.
            blob: Where constants go; None makes one.
        """
        blob = Blob() if blob is None else blob
        self._decoding = {}
        makers = {c.target for c in self._convolutions() if c.groups == 1 and c.target in self.fresh}
        decodes = {o: self._decode(o, blob) for o in self.graph.operations if isinstance(o, Decode)}
        for source, row in chain(*decodes.values()):
            if source in makers and source not in self._decoding:
                self._decoding[source] = blob.add(np.array(row, np.int64))
                row[k.UNITS] = 0
        rows: list[list[int]] = []
        sequence: list[Union[Span, Torch]] = []
        layers = []
        for operation in self.graph.operations:
            before = len(rows)
            if isinstance(operation, Torch):
                sequence.append(operation)
                continue
            if isinstance(operation, Convolution):
                rows += self.convolution(operation, choices[operation], blob)
                layers.append(Layer(operation, choices[operation], Span(before, len(rows))))
            elif isinstance(operation, Pool):
                rows.append(self._pool(operation))
            elif isinstance(operation, Upsample):
                rows.append(self._upsample(operation))
            elif isinstance(operation, Decode):
                rows += [row for _, row in decodes[operation] if row[k.UNITS]]
            if len(rows) > before:
                last = sequence[-1] if sequence else None
                if isinstance(last, Span):
                    last.stop = len(rows)
                else:
                    sequence.append(Span(before, len(rows)))
        steps = np.array(rows, np.int64).reshape(-1, k.FIELDS)
        made = self.workspace() if workspace is None else workspace
        return Plan(self.graph, steps, blob.buffer(), made, sequence, self.places, self.fresh, self.decoded, self.bases,
                    self.threads, self.batch, self.origins(), layers)  # fmt: skip

    def origins(self) -> dict[Value, int]:
        """Floats before the first pixel of the planes of all maps in the workspace."""
        return {v: self.layouts[v.shape[2], v.shape[3]].origin
                for v, place in self.places.items() if place.base == k.WORKSPACE}  # fmt: skip

    # memory

    def _convolutions(self) -> list[Convolution]:
        return [operation for operation in self.graph.operations if isinstance(operation, Convolution)]

    def _reserve(self, floats: int) -> int:
        place = self.sizes
        self.sizes += -(-floats // 16) * 16
        return place * 4

    def _copy_what_cannot_be_placed(self) -> None:
        """Parts of joins are made where the join has them; those that can't be are copied there."""
        native = (Convolution, Pool, Upsample, Join)
        makers = {o.target: o for o in self.graph.operations if isinstance(o, native)}
        self.parents: dict[Value, tuple[Value, int]] = {}
        made: list[Operation] = []
        for operation in self.graph.operations:
            if isinstance(operation, Part):
                self.parents[operation.target] = operation.source, operation.start
            if not isinstance(operation, Join):
                made.append(operation)
                continue
            start, parts = 0, []
            for part in operation.parts:
                if part in self.parents or part not in makers:
                    copy = Value(part.shape, part.dtype)
                    channels = part.shape[1]
                    one = np.ones((channels, 1, 1, 1), np.float32)
                    import torch

                    made.append(Convolution(part, copy, torch.from_numpy(one), torch.zeros(channels), groups=channels,
                                            own=False))  # fmt: skip
                    part = copy
                self.parents[part] = operation.target, start
                parts.append(part)
                start += part.shape[1]
            made.append(Join(parts, operation.target))
        self.graph.operations = made

    def _root(self, value: Value) -> tuple[Value, int]:
        start = 0
        while value in self.parents:
            value, more = self.parents[value]
            start += more
        return value, start

    def _kernels_do_all(self) -> bool:
        """Whether nothing but inputs and outputs has to be there for a whole batch at once."""
        if any(value.shape[0] != self.images for value in self.graph.inputs):
            return False
        torches = [o for o in self.graph.operations if isinstance(o, Torch)]
        made = {t for o in torches for t in o.targets}
        if any(v in made for o in self.graph.operations if not isinstance(o, Torch) for v in o.inputs()):
            return False
        taken = {v for o in torches for v in o.inputs()} | {v for v in self.graph.outputs if isinstance(v, Value)}
        return all(v in made or v in self.fresh or v in self.decoded or v in self.graph.inputs for v in taken)

    def _place(self) -> None:
        self.sizes = 0  # floats of the workspace
        self.places: dict[Value, Place] = {}
        self.fresh: dict[Value, tuple[int, int]] = {}
        self.decoded: dict[Value, int] = {}
        self.bases = 2 + len(self.graph.inputs)
        begin: dict[Value, int] = {}
        end: dict[Value, int] = {}
        users: dict[Value, set[str]] = {}
        for i, operation in enumerate(self.graph.operations):
            targets = operation.targets if isinstance(operation, Torch) else [operation.target]
            for value in [*operation.inputs(), *[t for t in targets if t is not None]]:
                root = self._root(value)[0]
                begin.setdefault(root, i)
                end[root] = i
            for value in operation.inputs():
                users.setdefault(value, set()).add(type(operation).__name__)
        outputs = {self._root(v)[0] for v in self.graph.outputs if isinstance(v, Value)}
        for root in outputs:
            end[root] = len(self.graph.operations)
        convolved = {o.target for o in self.graph.operations if isinstance(o, Convolution)}
        roots = sorted((r for r in begin if r.is_map and r not in self.graph.inputs), key=lambda r: begin[r])
        arena: dict[Value, int] = {}  # floats of each map that lies in the workspace
        decode_targets = {o.target for o in self.graph.operations if isinstance(o, Decode)}
        for target in decode_targets:
            self.decoded[target] = self.bases
            self.bases += 1
        torch_only = self._only_torch()
        viewed = {parent for parent, _ in self.parents.values()}
        for root in roots:
            if root in torch_only:
                continue
            layout = self.layouts[root.shape[2], root.shape[3]]
            uses = users.get(root, set())
            if root in convolved and (uses or root in outputs) and uses <= {"Torch", "Decode"} and root not in viewed:
                channels = -(-root.shape[1] // WHOLE) * WHOLE
                self.fresh[root] = self.bases, self.images * channels * layout.plane + TILE
                self.places[root] = Place(
                    self.bases, layout.origin * 4, channels * layout.plane, layout.plane, layout.pitch
                )
                self.bases += 1
                continue
            arena[root] = self.batch * root.shape[1] * layout.plane
        found, size = _packed_in_time({root: (begin[root], end[root], floats) for root, floats in arena.items()})
        start = self._reserve(size + TILE)
        for root, first in found.items():
            layout = self.layouts[root.shape[2], root.shape[3]]
            self.places[root] = Place(
                k.WORKSPACE, start + 4 * (first + layout.origin), root.shape[1] * layout.plane, layout.plane,
                layout.pitch,
            )  # fmt: skip
        for i, value in enumerate(self.graph.inputs):
            if value.is_map:
                _, channels, height, width = value.shape
                self.places[value] = Place(2 + i, 0, channels * height * width, height * width, width)
        for value in list(self.parents):
            root, start = self._root(value)
            there = self.places[root]
            self.places[value] = Place(
                there.base, there.offset + 4 * start * there.plane, there.image, there.plane, there.row
            )

    def _only_torch(self) -> set[Value]:
        """Maps that torch makes and only torch takes: they are its own."""
        made = {t for o in self.graph.operations if isinstance(o, Torch) for t in o.targets if t is not None}
        native = {v for o in self.graph.operations if not isinstance(o, Torch) for v in o.inputs()}
        return made - native

    def _packed(self, convolution: Convolution) -> tuple[Layout, int, int]:
        """Layout of the target, rows of a packed plane and its floats."""
        layout = self.layouts[convolution.target.shape[2], convolution.target.shape[3]]
        rows = layout.height + reach(convolution)[0] // convolution.stride[0]
        return layout, rows, odd_lines(rows * layout.pitch)

    def _packed_floats(self, convolution: Convolution) -> int:
        if is_direct(convolution, self.graph.inputs):
            return 0
        down, right = convolution.stride
        plane = self._packed(convolution)[2]
        return self.batch * convolution.source.shape[1] * down * right * plane + reach(convolution)[1] + TILE

    def _scratch_row(self, pool: Pool) -> int:
        columns, padding, kernel = pool.source.shape[3], pool.padding[1], pool.kernel[1]
        return -(-(columns + 2 * padding + kernel + 16 + pool.stride[1]) // 16) * 16

    def _scratch(self, pool: Pool) -> int:
        return self._scratch_row(pool) * pool.target.shape[2]

    # steps

    def _row(self, kind: int, units: int, source: Place, target: Place) -> list[int]:
        row = [0] * k.FIELDS
        row[k.KIND], row[k.UNITS], row[k.MEET] = kind, units, 1
        row[k.SOURCE], row[k.SOURCE_BASE] = source.offset, source.base
        row[k.TARGET], row[k.TARGET_BASE] = target.offset, target.base
        return row

    def convolution(self, c: Convolution, choice: Choice, blob: Blob) -> list[list[int]]:
        """Steps of one convolution.

        Args:
            c: Which.
            choice: How.
            blob: Where its weights go.
        """
        rows: list[list[int]] = []
        source, target = self.places[c.source], self.places[c.target]
        direct = is_direct(c, self.graph.inputs)
        outputs = c.weight.shape[0]
        weight = c.weight.numpy().reshape(outputs, -1)
        block = choice.block if outputs // c.groups % choice.block == 0 or c.groups == 1 else 1
        if c.target in self.fresh and c.groups == 1 and outputs % block:  # there is room for whole blocks
            outputs += -outputs % block
            weight = np.concatenate([weight, np.zeros((outputs - len(weight), weight.shape[1]), np.float32)])
        whole = outputs // block * block
        for start, stop, size in ((0, whole, block), (whole, outputs, 1)):
            if start == stop:
                continue
            span, way = slice(start, stop), choice if size == block else self._single(choice)
            panel = None if direct else self._panel(c, way, size, span)
            if direct:
                plane, image, phase_plane, packing = source.plane, source.image, 0, -1
            elif panel is None:
                phase_plane = self._packed(c)[2]
                plane = phase_plane * c.stride[0] * c.stride[1]
                image, packing = plane * c.source.shape[1], -1
                if not rows:
                    rows.append(self._pack(c, phase_plane, self.packed_at))
            else:
                phase_plane = panel[1]
                plane, image = phase_plane * c.stride[0] * c.stride[1], 0
                packing = blob.add(np.array(self._pack(c, phase_plane, self.panels_at), np.int64))
            row = self._row(k.CONVOLUTION, 0, source if direct else Place(k.WORKSPACE, self.packed_at, 0, 0, 0), target)
            self._sums(row, c, way, size, span, blob, weight, self._offsets(c, plane, phase_plane), plane,
                       None if panel is None else panel[0])  # fmt: skip
            row[k.SOURCE_IMAGE], row[k.PACKING] = image, packing
            row[k.TARGET] += 4 * start * target.plane
            row[k.TARGET_IMAGE], row[k.TARGET_PLANE] = target.image, target.plane
            self._border(row, c.target)
            row[k.ADDED_BASE] = target.base
            if c.added is not None:
                added = self.places[c.added]
                row[k.ADDED], row[k.ADDED_BASE] = added.offset + 4 * start * added.plane, added.base
                row[k.ADDED_IMAGE], row[k.ADDED_PLANE] = added.image, added.plane
                row[k.ADD_WHERE] = k.BEFORE if c.added_before else k.AFTER
            row[k.ACTIVATION] = k.ACTIVATIONS.index(c.activation)
            row[k.SLOPE] = int(np.float32(c.slope).view(np.int32))
            rows.append(row)
        return rows

    def _offsets(self, c: Convolution, plane: int, phase_plane: int) -> np.ndarray:
        """Floats from a pixel to what each tap reads, [in / groups, height, width] as one row."""
        height, width = c.weight.shape[2:]
        (above, left), (down, right) = c.padding, c.stride
        taps_rows, taps_columns = np.arange(height) * c.dilation[0], np.arange(width) * c.dilation[1]
        if is_direct(c, self.graph.inputs):
            row = self.places[c.source].row
            spatial = (taps_rows[:, None] - above) * row + taps_columns[None] - left
        else:
            pitch = self.layouts[c.target.shape[2], c.target.shape[3]].pitch
            phase = (taps_rows % down)[:, None] * right + taps_columns % right
            spatial = phase * phase_plane + (taps_rows // down)[:, None] * pitch + taps_columns // right
        return (np.arange(c.weight.shape[1])[:, None, None] * plane + spatial).reshape(-1)

    def _panel(self, c: Convolution, choice: Choice, block: int, span: slice) -> Optional[tuple[int, int]]:
        """Tiles of which the packed input stays in the second cache, and floats of a plane of it.

        None where the whole packed map stays there, or weights don't: it is packed once then.
        """
        planes = c.source.shape[1] * c.stride[0] * c.stride[1]
        stream = np.count_nonzero(c.weight[span].numpy()) * 8
        layout, _, whole = self._packed(c)
        if whole * planes * 4 < PACKED_LARGE or stream > SECOND_CACHE:
            return None
        sizes = self.kernels.tiles[block]
        pixels = (choice.vectors if choice.vectors in sizes else sizes[0]) * self.kernels.target.width
        tiles = -(-layout.pixels // pixels)
        many = max(1, min(tiles, PANEL_CACHE // (4 * planes * pixels)))
        if self.threads > 1:
            many = max(1, min(many, tiles * self.batch // (6 * self.threads)))
        plane = self._panel_plane(c, many * pixels)
        return None if planes * plane > self.panel_floats else (many, plane)

    def _panel_plane(self, c: Convolution, pixels: int) -> int:
        layout, rows, _ = self._packed(c)
        return odd_lines(min(rows, pixels // layout.pitch + 2 + rows - layout.height) * layout.pitch)

    def _single(self, choice: Choice) -> Choice:
        sizes = self.kernels.tiles[1]
        return Choice(1, sizes[-1] if len(sizes) == 1 else sizes[1], choice.cached)

    def _sums(
        self, row: list[int], c: Convolution, choice: Choice, block: int, span: slice, blob: Blob, weight: np.ndarray,
        offsets: np.ndarray, plane: int, panel: Optional[int],
    ) -> None:  # fmt: skip
        layout = self.layouts[c.target.shape[2], c.target.shape[3]]
        outputs = c.weight.shape[0]
        shifts = np.arange(len(weight)) // (outputs // c.groups) * c.weight.shape[1] * plane
        decoding = self._decoding.get(c.target, -1)
        width = self.kernels.target.width
        sizes = self.kernels.tiles[block]
        vectors = choice.vectors if choice.vectors in sizes else sizes[0]
        pixels = vectors * width
        tiles = -(-layout.pixels // pixels)
        rest = layout.pixels - (tiles - 1) * pixels
        tail = min(size for size in sizes if size * width >= rest)
        cuts = self._cuts(c, choice, pixels, layout)
        groups = (span.stop - span.start) // block
        kept = weight[span]
        size = np.count_nonzero(kept.reshape(groups, block, -1).any(1)) * 4 * (block + 1)
        chunks = max(1, min(groups, -(-size // (len(cuts) - 1) // SECOND_CACHE)))
        many = max(1, min(tiles, 2048 // pixels))
        if len(cuts) > 2:
            many = max(1, min(many, SECOND_CACHE // (groups * block // chunks * pixels * 4)))
        if self.threads > 1:
            wanted = 6 * self.threads
            many = max(1, min(many, tiles * self.batch * chunks // wanted))
            units = -(-tiles // many) * self.batch
            if units * chunks < wanted:
                chunks = max(chunks, min(groups, -(-wanted // units)))
        if panel is not None:
            many, chunks = panel, 1
        elif decoding >= 0:  # what is decoded was made just before, all channels of it
            many, chunks = max(1, min(many, DECODED // (4 * len(weight) * pixels))), 1
        made = build(kept, offsets, shifts[span], block, cuts, chunks)
        row[k.PANELS], row[k.PANEL_TILES], row[k.TILES], row[k.TILE] = -(-tiles // many), many, tiles, pixels
        row[k.KERNEL], row[k.TAIL_KERNEL] = self.kernels.numbers[block, vectors], self.kernels.numbers[block, tail]
        row[k.CHUNKS], row[k.BLOCKS], row[k.GROUPS], row[k.ROWS] = chunks, len(cuts) - 1, groups, block
        row[k.UNITS] = self.batch * row[k.PANELS] * chunks
        row[k.BORDER_FROM] = (tiles - 1) * pixels + tail * width
        row[k.STREAMS] = blob.add(blob.add(made.data) + made.starts)
        row[k.COUNTS] = blob.add(made.counts)
        row[k.CHUNK_STARTS] = blob.add(made.chunk_groups)
        lines, counts = self._lines(offsets, cuts, pixels, choice.ahead > 1)
        row[k.AHEAD], row[k.AHEAD_COUNTS] = blob.add(lines), blob.add(counts)
        row[k.AHEAD_OUT] = int(choice.ahead > 0)
        row[k.BIAS] = blob.add(np.concatenate([c.bias.numpy(), np.zeros(len(weight) - outputs, np.float32)])[span])
        row[k.DECODING] = decoding
        row[k.MASK] = self.masks[layout.height, layout.width]

    def _lines(self, offsets: np.ndarray, cuts: list[int], pixels: int, ahead: bool) -> tuple[np.ndarray, np.ndarray]:
        """Lines of the cache that a tile reads, by blocks of input channels."""
        made, counts = [np.zeros(0, np.int32)], [0]
        for start, stop in zip(cuts, cuts[1:]) if ahead else []:
            runs = (offsets[start:stop, None] + np.arange(0, pixels + 15, 16)[None]).reshape(-1)
            lines = np.unique(runs >> 4) << 4
            lines = np.concatenate([lines, np.full(-len(lines) % 4, lines[-1])]).astype(np.int32)
            made.append(lines)
            counts.append(counts[-1] + len(lines))
        counts += [counts[-1]] * (len(cuts) - len(counts))
        return np.concatenate(made), np.array(counts, np.int64)

    def _cuts(self, c: Convolution, choice: Choice, pixels: int, layout: Layout) -> list[int]:
        """Taps at which blocks of input channels begin."""
        taps = int(np.prod(c.weight.shape[2:]))
        channels = c.weight.shape[1]
        if not choice.cached or c.groups > 1:
            return [0, channels * taps]
        height, width = c.weight.shape[2:]
        phases = 1 if is_direct(c, self.graph.inputs) else min(height, c.stride[0]) * min(width, c.stride[1])
        rows = -(-height // (1 if phases == 1 else c.stride[0]))
        apart = rows * (pixels + width + 16)
        together = pixels + (rows - 1) * c.dilation[0] * layout.pitch + width + 16
        each = 4 * phases * min(apart, together)
        blocks = -(-channels * each // choice.cached)
        cuts = np.linspace(0, channels, max(1, min(blocks, channels)) + 1).round().astype(int)
        return [int(cut) * taps for cut in cuts]

    def _pack(self, c: Convolution, plane: int, place: int) -> list[int]:
        layout, rows, _ = self._packed(c)
        source = self.places[c.source]
        down, right = c.stride
        row = self._row(k.PACK, self.batch * c.source.shape[1], source, Place(k.WORKSPACE, place, 0, 0, 0))
        row[k.CHANNELS], row[k.HEIGHT], row[k.WIDTH] = c.source.shape[1:]
        row[k.SOURCE_ROW], row[k.SOURCE_PLANE], row[k.IMAGE_IN] = source.row, source.plane, source.image
        row[k.OUT_HEIGHT], row[k.TARGET_ROW], row[k.OUT_WIDTH] = rows, layout.pitch, rows - layout.height
        row[k.STRIDE], row[k.STRIDE_COLUMNS] = down, right
        row[k.PADDING_ROWS], row[k.PADDING_COLUMNS] = c.padding
        row[k.PHASE_OUT], row[k.PLANE_OUT] = plane, plane * down * right
        row[k.IMAGE_OUT] = plane * down * right * c.source.shape[1]
        row[k.SCRATCH], row[k.SCRATCH_SIZE] = place, 4 * (self.panel_floats + TILE)
        return row

    def _planes(self, kind: int, source: Value, target: Value) -> list[int]:
        given, made = self.places[source], self.places[target]
        row = self._row(kind, self.batch * source.shape[1], given, made)
        row[k.CHANNELS], row[k.HEIGHT], row[k.WIDTH] = source.shape[1:]
        row[k.SOURCE_ROW], row[k.SOURCE_PLANE], row[k.IMAGE_IN] = given.row, given.plane, given.image
        row[k.TARGET_ROW], row[k.PLANE_OUT], row[k.IMAGE_OUT] = made.row, made.plane, made.image
        row[k.OUT_HEIGHT], row[k.OUT_WIDTH] = target.shape[2:]
        row[k.BORDER_FROM] = self.layouts[target.shape[2], target.shape[3]].pixels
        self._border(row, target)
        return row

    def _border(self, row: list[int], target: Value) -> None:
        """What has to be zero around a plane, as other maps may have lain there."""
        if self.places[target].base == k.WORKSPACE:
            layout = self.layouts[target.shape[2], target.shape[3]]
            row[k.BORDER] = layout.origin
            row[k.BORDER_TO] = layout.pixels + layout.rows * layout.pitch + layout.columns

    def _pool(self, pool: Pool) -> list[int]:
        row = self._planes(k.POOL, pool.source, pool.target)
        row[k.KERNEL_ROWS], row[k.KERNEL_COLUMNS] = pool.kernel
        row[k.STRIDE], row[k.STRIDE_COLUMNS] = pool.stride
        row[k.PADDING_ROWS], row[k.PADDING_COLUMNS] = pool.padding
        row[k.SCRATCH], row[k.SCRATCH_SIZE] = self.scratch_at, self.scratch_size * 4
        row[k.SCRATCH_ROW] = self._scratch_row(pool)
        return row

    def _upsample(self, upsample: Upsample) -> list[int]:
        row = self._planes(k.UPSAMPLE, upsample.source, upsample.target)
        row[k.STRIDE], row[k.STRIDE_COLUMNS] = upsample.factor
        return row

    def _decode(self, decode: Decode, blob: Blob) -> list[tuple[Value, list[int]]]:
        rows = []
        _, total, channels = decode.target.shape
        before = 0
        for level in decode.levels:
            source = self.places[level.source]
            height, width = level.source.shape[2:]
            target = Place(self.decoded[decode.target], 4 * before * channels, total * channels, 0, 0)
            row = self._row(k.DECODE, self.batch * level.anchors * height, source, target)
            row[k.CHANNELS], row[k.HEIGHT], row[k.WIDTH], row[k.ANCHORS] = channels, height, width, level.anchors
            row[k.SOURCE_ROW], row[k.SOURCE_PLANE], row[k.IMAGE_IN] = source.row, source.plane, source.image
            row[k.IMAGE_OUT] = target.image
            table, pixels = [], Pixels(height, width)
            for anchor in range(level.anchors):
                for segment in level.segments:
                    flags = int(segment.sigmoid) + 2 * int(segment.square)
                    plain = segment.scale is None and segment.shift is None
                    for channel in range(segment.stop - segment.start):
                        table.append([flags + 4 * int(plain), pixels.add(segment.scale, anchor, channel, 1.0),
                                      pixels.add(segment.shift, anchor, channel, 0.0)])  # fmt: skip
            special = [i % channels for i, (flags, *_) in enumerate(table) if flags != 5]
            row[k.USUAL_FROM] = max(special, default=-1) + 1
            row[k.TABLE] = blob.add(np.array(table, np.int64), True)
            row[k.SCALES] = blob.add(pixels.array(), True)
            rows.append((level.source, row))
            before += level.anchors * height * width
        return rows


class Pixels:
    """Scales and shifts by pixel; the same ones once.

    Args:
        height: Rows.
        width: Columns.
    """

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width)
        self.planes: list[np.ndarray] = []
        self._known: dict[bytes, int] = {}

    def add(self, values: Any, anchor: int, channel: int, default: float) -> int:
        """Put one channel's in; floats before it.

        Args:
            values: [1, anchors, ny, nx, channels], or None.
            anchor: Which.
            channel: Which.
            default: What None means.
        """
        if values is None:
            plane = np.full(self.shape, default, np.float32)
        else:
            plane = values[0, anchor, :, :, channel].expand(*self.shape).numpy().astype(np.float32)
        plane = np.concatenate([plane.reshape(-1), np.zeros(TILE, np.float32)])
        key = plane.tobytes()
        if key not in self._known:
            self._known[key] = len(self.planes) * len(plane)
            self.planes.append(plane)
        return self._known[key]

    def array(self) -> np.ndarray:
        """All planes."""
        return np.concatenate(self.planes)


def _packed_in_time(wanted: dict[Value, tuple[int, int, int]]) -> tuple[dict[Value, int], int]:
    """Where each of some ranges lies so that those that are in use at one time don't overlap; the largest first.

    Args:
        wanted: (first time, last time, floats) of each.

    Returns:
        First float of each, and the floats of all.
    """
    placed: list[tuple[int, int, int, int]] = []  # first float, after the last, first time, last time
    found: dict[Value, int] = {}
    for value, (begin, end, floats) in sorted(wanted.items(), key=lambda item: -item[1][2]):
        start = 0
        for low, high, earlier, later in sorted(placed):
            if earlier <= end and begin <= later and low < start + floats and start < high:
                start = high
        placed.append((start, start + floats, begin, end))
        found[value] = start
    return found, max((high for _, high, _, _ in placed), default=0)
