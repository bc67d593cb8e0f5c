"""The kernels of the runtime as LLVM IR: one native function runs a list of steps over plain buffers.

A step is a row of ``FIELDS`` whole numbers. Its work is cut in units, which threads take from a counter; after a step
they meet. Whoever computes a number computes it in the same order, so results don't depend on threads or tiles.
"""

from __future__ import annotations

from collections.abc import Callable

from yolov5_prune_plugin.core.runtime.ir import Function, number

FIELDS = 48  # of a step
CONVOLUTION, PACK, POOL, UPSAMPLE, DECODE = range(5)
ACTIVATIONS = ("none", "relu", "silu", "leaky_relu", "hardswish", "sigmoid")
AFTER, BEFORE = 1, 2  # where a sum is added: to the activation's result or to what goes into it

# Fields of all steps
KIND, UNITS, MEET, SOURCE, SOURCE_BASE, TARGET, TARGET_BASE = range(7)
# of a convolution; offsets are bytes, strides floats
(SOURCE_IMAGE, TARGET_IMAGE, TARGET_PLANE, PANELS, PANEL_TILES, TILES, TILE, KERNEL, TAIL_KERNEL, CHUNKS, BLOCKS,
 GROUPS, STREAMS, COUNTS, CHUNK_STARTS, BIAS, MASK, ADDED, ADDED_BASE, ADDED_IMAGE, ADDED_PLANE, ACTIVATION, ADD_WHERE,
 SLOPE, ROWS, AHEAD, AHEAD_COUNTS, PACKING, AHEAD_OUT) = range(7, 36)  # fmt: skip
# of the others
(CHANNELS, HEIGHT, WIDTH, SOURCE_ROW, SOURCE_PLANE, OUT_HEIGHT, OUT_WIDTH, TARGET_ROW, STRIDE, PADDING_ROWS,
 PADDING_COLUMNS, KERNEL_ROWS, KERNEL_COLUMNS, SCRATCH, SCRATCH_SIZE, TABLE, ANCHORS, IMAGE_IN, IMAGE_OUT, PLANE_OUT,
 PHASE_OUT, STRIDE_COLUMNS, USUAL_FROM, SCALES, SCRATCH_ROW) = range(7, 32)  # fmt: skip
BORDER, BORDER_FROM, BORDER_TO = range(36, 39)  # zeros of a target: floats before, and from where to where after
DECODING = 39  # of a convolution: where the step lies that decodes what it makes, or -1
WEIGHTS, WORKSPACE = 0, 1  # bases; the others are inputs and outputs


def tiles_for(width: int, registers: int) -> dict[int, tuple[int, ...]]:
    """Vectors of pixels that a kernel holds, by output channels in a block; the widest first.

    Args:
        width: Floats in a vector.
        registers: Vectors that the processor can hold.
    """
    del width
    return {1: (16, 8, 4), 2: (8, 4, 2), 4: (6, 3, 1)} if registers >= 32 else {1: (12, 8, 4), 2: (4, 2), 4: (3, 2, 1)}


def kernel_numbers(tiles: dict[int, tuple[int, ...]]) -> dict[tuple[int, int], int]:
    """Number of the kernel for (block, vectors)."""
    return {pair: i for i, pair in enumerate((block, many) for block, sizes in tiles.items() for many in sizes)}


def module_text(width: int, registers: int) -> str:
    """The whole module.

    Args:
        width: Floats in a vector.
        registers: Vectors that the processor can hold.
    """
    tiles = tiles_for(width, registers)
    vector = f"<{width} x float>"
    parts = [
        "declare i64 @llvm.smin.i64(i64, i64)",
        "declare i64 @llvm.smax.i64(i64, i64)",
        f"declare {vector} @llvm.fmuladd.v{width}f32({vector}, {vector}, {vector})",
        f"declare {vector} @llvm.maximum.v{width}f32({vector}, {vector})",
        "declare float @llvm.maximum.f32(float, float)",
        "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)",
        "",
    ]
    parts.append(_finish(width))
    parts += [_tile(width, block, many, registers // 4) for block, many in kernel_numbers(tiles)]
    parts += [
        _convolution(width, tiles),
        _pack_rows(width),
        _pack(width),
        _pool(width),
        _upsample(width),
        _decode_part(width),
        _decode(width),
        _decode_pixels(width),
        _run(width),
    ]
    return "\n".join(parts)


def _activated(f: Function, x: str, name: str, slope: str) -> str:
    zero = f.constant(0.0)
    if name == "relu":  # NaN stays
        test = f.op(f"fcmp olt {f.vector} {x}, {zero}")
        return f.op(f"select <{f.width} x i1> {test}, {f.vector} {zero}, {f.vector} {x}")
    if name == "silu":
        return f.math("fdiv", x, f.one_plus_exp_minus(x))
    if name == "sigmoid":
        return f.math("fdiv", f.constant(1.0), f.one_plus_exp_minus(x))
    if name == "leaky_relu":
        test = f.op(f"fcmp olt {f.vector} {x}, {zero}")
        return f.op(f"select <{f.width} x i1> {test}, {f.vector} {f.math('fmul', x, slope)}, {f.vector} {x}")
    if name == "hardswish":  # NaN stays, as x is a factor
        gate = f.clamp_low(f.clamp_high(f.math("fadd", x, f.constant(3.0)), f.constant(6.0)), zero)
        return f.math("fdiv", f.math("fmul", x, gate), f.constant(6.0))
    return x


def _tile(width: int, block: int, many: int, together: int) -> str:
    """One tile of pixels, all outputs of a chunk: sums over a stream of (values, offset).

    Args:
        width: Floats in a vector.
        block: Output channels in a group.
        many: Vectors of pixels.
        together: Vectors whose activations are computed side by side.
    """
    arguments = [("ptr", "in"), ("ptr", "out"), ("i64", "plane"), ("ptr", "stream"), ("ptr", "counts"), ("ptr", "bias"),
                 ("ptr", "mask"), ("ptr", "added"), ("i64", "added_plane"), ("i64", "groups"), ("i1", "first"),
                 ("i1", "last"), ("i64", "activation"), ("i64", "where"), ("float", "slope")]  # fmt: skip
    f = Function(f"tile_{block}_{many}", arguments, width)
    v, aligned = f.vector, width * 4
    entry = 4 * (block + 1)
    pairs = [(a, t) for a in range(block) for t in range(many)]
    f.do("br label %group")
    f.label("group")
    place = len(f.lines)
    f.lines += [""] * 4
    count32 = f.load(f.at("%counts", "%g", "i32"), "i32")
    count = f.op(f"zext i32 {count32} to i64")
    outs = ["%o"]
    for _ in range(1, block):
        outs.append(f.at(outs[-1], "%plane"))
    f.branch("%first", "init.bias", "init.sums")
    f.label("init.bias")
    index = f.mul("%g", block)
    biases = [f.splat(f.load(f.at("%bias", f.add(index, a)), "float")) for a in range(block)]
    f.jump("sum.start")
    f.label("init.sums")
    sums = {(a, t): f.load(f.at(outs[a], t * width), v, aligned) for a, t in pairs}
    f.jump("sum.start")
    f.label("sum.start")
    begin = {}
    for a, t in pairs:
        begin[a, t] = f.op(f"phi {v} [ {biases[a]}, %init.bias ], [ {sums[a, t]}, %init.sums ]")
    none = f.op(f"icmp eq i64 {count}, 0")
    f.branch(none, "sum.end", "sum")
    f.label("sum")
    phis = len(f.lines)
    f.lines += [""] * (len(pairs) + 2)
    accumulators = {pair: f"%acc{pair[0]}_{pair[1]}" for pair in pairs}
    offset32 = f.load(f.at("%s", 4 * block, "i8"), "i32")
    offset = f.op(f"sext i32 {offset32} to i64")
    source = f.at("%in", offset)
    loaded = [f.load(f.at(source, t * width), v) for t in range(many)]
    new = {}
    for a in range(block):
        value = f.splat(f.load(f.at("%s", 4 * a, "i8"), "float"))
        for t in range(many):
            new[a, t] = f.fma(value, loaded[t], accumulators[a, t])
    f.do(f"%s.next = getelementptr i8, ptr %s, i64 {entry}")
    f.do("%i.next = add i64 %i, 1")
    again = f.op(f"icmp ult i64 %i.next, {count}")
    f.branch(again, "sum", "sum.end")
    f.lines[phis] = "  %s = phi ptr [ %s.group, %sum.start ], [ %s.next, %sum ]"
    f.lines[phis + 1] = "  %i = phi i64 [ 0, %sum.start ], [ %i.next, %sum ]"
    for k, pair in enumerate(pairs):
        f.lines[phis + 2 + k] = f"  {accumulators[pair]} = phi {v} [ {begin[pair]}, %sum.start ], [ {new[pair]}, %sum ]"
    f.label("sum.end")
    f.do("%s.after = phi ptr [ %s.group, %sum.start ], [ %s.next, %sum ]")
    done = {pair: f.op(f"phi {v} [ {begin[pair]}, %sum.start ], [ {new[pair]}, %sum ]") for pair in pairs}
    # SiLU is applied in the registers, other activations and sums to what was stored
    plain = f.op("icmp eq i64 %where, 0")
    silu = f.op(f"icmp eq i64 %activation, {ACTIVATIONS.index('silu')}")
    f.branch(f.op(f"and i1 %last, {f.op(f'and i1 {plain}, {silu}')}"), "silu", "sums")
    f.label("silu")
    for i, (a, t) in enumerate(pairs):
        whole = f.op(f"bitcast {v} {_activated(f, done[a, t], 'silu', '')} to {f.whole}")
        whole = f.op(f"and {f.whole} {whole}, {f.load(f.at('%mask', t * width), f.whole, aligned)}")
        f.store(whole, f.at(outs[a], t * width), f.whole, aligned)
        # always true, which LLVM can't know: so it does not mix the work on all of them, for which registers are few
        if i % together == together - 1:
            f.branch(f.op(f"icmp ne i64 %plane, {-1 - i}"), f"silu.{i}", "group.end")
            f.label(f"silu.{i}")
    f.jump("group.end")
    f.label("sums")
    for a, t in pairs:
        f.store(done[a, t], f.at(outs[a], t * width), v, aligned)
    f.branch("%last", "finish", "group.end")
    f.label("finish")
    f.do(f"call void @finish(ptr %o, i64 %plane, i64 {block}, i64 {many * width}, ptr %mask, ptr %r, i64 %added_plane,"
         " i64 %activation, i64 %where, float %slope)")  # fmt: skip
    f.jump("group.end")
    f.label("group.end")
    f.do("%g.next = add i64 %g, 1")
    f.do(f"%o.next = getelementptr float, ptr {outs[-1]}, i64 %plane")
    f.do(f"%r.step = mul i64 %added_plane, {block}")
    f.do("%r.next = getelementptr float, ptr %r, i64 %r.step")
    more = f.op("icmp ult i64 %g.next, %groups")
    f.branch(more, "group", "done")
    f.lines[place] = "  %g = phi i64 [ 0, %entry ], [ %g.next, %group.end ]"
    f.lines[place + 1] = "  %o = phi ptr [ %out, %entry ], [ %o.next, %group.end ]"
    f.lines[place + 2] = "  %r = phi ptr [ %added, %entry ], [ %r.next, %group.end ]"
    f.lines[place + 3] = "  %s.group = phi ptr [ %stream, %entry ], [ %s.after, %group.end ]"
    f.label("done")
    return f.text()


def _finish(width: int) -> str:
    """Sums of a tile, which are still near, become results: activation, addition, and zeros between the rows."""
    arguments = [("ptr", "out"), ("i64", "plane"), ("i64", "rows"), ("i64", "pixels"), ("ptr", "mask"),
                 ("ptr", "added"), ("i64", "added_plane"), ("i64", "activation"), ("i64", "where"),
                 ("float", "slope")]  # fmt: skip
    f = Function("finish", arguments, width)
    v, aligned = f.vector, width * 4
    slope = f.splat("%slope")
    before, after = (f.op(f"icmp eq i64 %where, {place}") for place in (BEFORE, AFTER))
    cases = " ".join(f"i64 {i}, label %act.{name}" for i, name in enumerate(ACTIVATIONS) if i)
    f.do(f"switch i64 %activation, label %act.none [ {cases} ]")
    for name in ACTIVATIONS:
        f.label(f"act.{name}")
        with f.loop(0, "%rows") as row:
            out = f.at("%out", f.mul(row, "%plane"))
            added = f.at("%added", f.mul(row, "%added_plane"))
            with f.loop(0, "%pixels", width) as q:
                x = f.load(f.at(out, q), v, aligned)
                x = _plus(f, x, before, added, q)
                x = _plus(f, _activated(f, x, name, slope), after, added, q)
                whole = f.op(f"bitcast {v} {x} to {f.whole}")
                whole = f.op(f"and {f.whole} {whole}, {f.load(f.at('%mask', q), f.whole, aligned)}")
                f.store(whole, f.at(out, q), f.whole, aligned)
        f.jump("done")
    f.label("done")
    return f.text()


def _plus(f: Function, x: str, condition: str, added: str, q: str) -> str:
    name, before = f.fresh("plus"), f.block
    f.branch(condition, f"{name}.add", f"{name}.end")
    f.label(f"{name}.add")
    summed = f.math("fadd", x, f.load(f.at(added, q), f.vector, f.width * 4))
    f.jump(f"{name}.end")
    f.label(f"{name}.end")
    return f.op(f"phi {f.vector} [ {x}, %{before} ], [ {summed}, %{name}.add ]")


_STEP = [("ptr", "step"), ("ptr", "bases"), ("i64", "unit"), ("i64", "thread")]


def _field(f: Function, index: int) -> str:
    return f.load(f.at("%step", index, "i64"), "i64", 8)


def _base(f: Function, index: int, offset: str) -> str:
    """Pointer that a field names: base and bytes."""
    return f.at(f.load(f.at("%bases", index, "ptr"), "ptr"), offset, "i8")


def _pointer(f: Function, place: int) -> str:
    """Pointer of two fields, the offset in bytes and the base."""
    base = f.load(f.at("%bases", _field(f, place + 1), "ptr"), "ptr")
    return f.at(base, _field(f, place), "i8")


def _convolution(width: int, tiles: dict[int, tuple[int, ...]]) -> str:
    f = Function("convolution", _STEP, width)
    panels, chunks, blocks = (_field(f, i) for i in (PANELS, CHUNKS, BLOCKS))
    rest, chunk = f.divided("%unit", chunks)
    image, panel = f.divided(rest, panels)
    source = f.at(_pointer(f, SOURCE), f.mul(image, _field(f, SOURCE_IMAGE)))
    plane, added_plane = _field(f, TARGET_PLANE), _field(f, ADDED_PLANE)
    starts = _base(f, WEIGHTS, _field(f, CHUNK_STARTS))
    first_group = f.load(f.at(starts, chunk, "i64"), "i64", 8)
    groups = f.sub(f.load(f.at(starts, f.add(chunk, 1), "i64"), "i64", 8), first_group)
    rows = _field(f, ROWS)  # outputs in a group
    first_row = f.mul(first_group, rows)
    target = f.at(_pointer(f, TARGET), f.add(f.mul(image, _field(f, TARGET_IMAGE)), f.mul(first_row, plane)))
    added = f.at(_pointer(f, ADDED), f.add(f.mul(image, _field(f, ADDED_IMAGE)), f.mul(first_row, added_plane)))
    bias = f.at(_base(f, WEIGHTS, _field(f, BIAS)), first_row)
    mask = _base(f, WORKSPACE, _field(f, MASK))
    streams, counts = _base(f, WEIGHTS, _field(f, STREAMS)), _base(f, WEIGHTS, _field(f, COUNTS))
    ahead, ahead_counts = _base(f, WEIGHTS, _field(f, AHEAD)), _base(f, WEIGHTS, _field(f, AHEAD_COUNTS))
    all_groups, count, many = _field(f, GROUPS), _field(f, TILES), _field(f, PANEL_TILES)
    pixels, kernel, tail = _field(f, TILE), _field(f, KERNEL), _field(f, TAIL_KERNEL)
    activation, where = _field(f, ACTIVATION), _field(f, ADD_WHERE)
    slope = f.op(f"bitcast i32 {f.op(f'trunc i64 {_field(f, SLOPE)} to i32')} to float")
    begin = f.mul(panel, many)
    end = f.minimum(f.add(begin, many), count)
    final = f.sub(count, 1)
    ahead_out = f.op(f"icmp ne i64 {_field(f, AHEAD_OUT)}, 0")
    # a source that has to be packed is packed here, the rows of this panel, in memory of the thread's own
    packing = _field(f, PACKING)
    name, before = f.fresh("panel"), f.block
    f.branch(f.op(f"icmp slt i64 {packing}, 0"), f"{name}.end", f"{name}.pack")
    f.label(f"{name}.pack")
    row = _base(f, WEIGHTS, packing)
    at = {i: f.load(f.at(row, i, "i64"), "i64", 8)
          for i in (CHANNELS, TARGET_ROW, PLANE_OUT, OUT_HEIGHT, OUT_WIDTH, SCRATCH, SCRATCH_SIZE)}  # fmt: skip
    pitch = at[TARGET_ROW]
    top, _ = f.divided(f.mul(begin, pixels), pitch)
    bottom, _ = f.divided(f.sub(f.mul(end, pixels), 1), pitch)
    rows_here = f.sub(f.minimum(f.add(f.add(bottom, at[OUT_WIDTH]), 1), at[OUT_HEIGHT]), top)
    scratch = _base(f, WORKSPACE, f.add(at[SCRATCH], f.mul("%thread", at[SCRATCH_SIZE])))
    with f.loop(0, at[CHANNELS]) as channel:
        place = f.at(scratch, f.mul(channel, at[PLANE_OUT]))
        f.do(f"call void @pack_rows(ptr {row}, ptr %bases, i64 {image}, i64 {channel}, i64 {top}, i64 {rows_here},"
             f" ptr {place})")  # fmt: skip
    packed = f.at(scratch, f.sub(0, f.mul(top, pitch)))
    inside = f.block
    f.jump(f"{name}.end")
    f.label(f"{name}.end")
    source = f.op(f"phi ptr [ {source}, %{before} ], [ {packed}, %{inside} ]")
    name = f.fresh("border")
    border, border_from, border_to = (_field(f, i) for i in (BORDER, BORDER_FROM, BORDER_TO))
    with f.when(f.op(f"icmp eq i64 {begin}, 0")), f.loop(0, f.mul(groups, rows)) as channel:
        line = f.at(target, f.mul(channel, plane))
        with f.loop(f.sub(0, border), 0, width) as pixel:
            f.store(f.constant(0.0), f.at(line, pixel), f.vector, 4 * width)
    with f.when(f.op(f"icmp eq i64 {end}, {count}")), f.loop(0, f.mul(groups, rows)) as channel:
        line = f.at(target, f.mul(channel, plane))
        with f.loop(border_from, border_to, width) as pixel:
            f.store(f.constant(0.0), f.at(line, pixel), f.vector, 4 * width)
    with f.loop(0, blocks) as block:
        first = f.op(f"icmp eq i64 {block}, 0")
        last = f.op(f"icmp eq i64 {f.add(block, 1)}, {blocks}")
        place = f.load(f.at(streams, f.add(f.mul(block, chunks), chunk), "i64"), "i64", 8)
        stream = _base(f, WEIGHTS, place)
        counted = f.at(counts, f.add(f.mul(block, all_groups), first_group), "i32")
        lines = f.at(ahead, f.load(f.at(ahead_counts, block, "i64"), "i64", 8), "i32")
        wanted = f.sub(f.load(f.at(ahead_counts, f.add(block, 1), "i64"), "i64", 8),
                       f.load(f.at(ahead_counts, block, "i64"), "i64", 8))  # fmt: skip
        with f.loop(begin, end) as tile:
            q = f.mul(tile, pixels)
            is_tail = f.op(f"icmp eq i64 {tile}, {final}")
            following = f.at(source, f.add(q, pixels))
            with f.loop(0, wanted, 4) as line:
                for i in range(4):
                    place = f.load(f.at(f.at(lines, line, "i32"), i, "i32"), "i32")
                    address = f.at(following, f.op(f"sext i32 {place} to i64"))
                    f.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 3, i32 1)")
            chosen = f.op(f"select i1 {is_tail}, i64 {tail}, i64 {kernel}")
            with f.when(f.op(f"and i1 {ahead_out}, {last}")):
                out, sums = f.at(target, f.add(q, pixels)), f.at(added, f.add(q, pixels))
                with f.loop(0, f.mul(groups, rows)) as channel:
                    for pointer, stride, write in ((out, plane, 1), (sums, added_plane, 0)):
                        line = f.at(pointer, f.mul(channel, stride))
                        with f.loop(0, pixels, 16) as pixel:
                            f.do(f"call void @llvm.prefetch.p0(ptr {f.at(line, pixel)}, i32 {write}, i32 3, i32 1)")
            given = (f"ptr {f.at(source, q)}, ptr {f.at(target, q)}, i64 {plane}, ptr {stream}, ptr {counted},"
                     f" ptr {bias}, ptr {f.at(mask, q)}, ptr {f.at(added, q)}, i64 {added_plane}, i64 {groups},"
                     f" i1 {first}, i1 {last}, i64 {activation}, i64 {where}, float {slope}")  # fmt: skip
            numbers = kernel_numbers(tiles)
            name = f.fresh("kernels")
            cases = " ".join(f"i64 {i}, label %{name}.{i}" for i in numbers.values())
            f.do(f"switch i64 {chosen}, label %{name}.end [ {cases} ]")
            for (size, vectors), i in numbers.items():
                f.label(f"{name}.{i}")
                f.do(f"call void @tile_{size}_{vectors}({given})")
                f.jump(f"{name}.end")
            f.label(f"{name}.end")
    decoding = _field(f, DECODING)
    with f.when(f.op(f"icmp sge i64 {decoding}, 0")):
        f.do(f"call void @decode_pixels(ptr {_base(f, WEIGHTS, decoding)}, ptr %bases, i64 {image},"
             f" i64 {f.mul(begin, pixels)}, i64 {f.mul(end, pixels)})")  # fmt: skip
    return f.text()


def _fill(f: Function, pointer: str, start: str | int, stop: str | int, value: float = 0.0) -> None:
    """Write a number to [start, stop)."""
    with f.loop(start, stop) as i:
        f.store(number(value), f.at(pointer, i), "float")


def _border(f: Function, target: str) -> None:
    """Zeros before and after a plane, and between its rows."""
    border, start, stop = (_field(f, i) for i in (BORDER, BORDER_FROM, BORDER_TO))
    with f.loop(f.sub(0, border), 0, f.width) as pixel:
        f.store(f.constant(0.0), f.at(target, pixel), f.vector, 4 * f.width)
    _fill(f, target, start, stop)
    row, columns = _field(f, TARGET_ROW), _field(f, OUT_WIDTH)
    with f.loop(0, f.op(f"select i1 {f.op(f'icmp eq i64 {stop}, 0')}, i64 0, i64 {_field(f, OUT_HEIGHT)}")) as line:
        _fill(f, f.at(target, f.mul(line, row)), columns, row)


def _pack(width: int) -> str:
    """All rows of a plane; a unit is (image, plane)."""
    f = Function("pack", _STEP, width)
    image, channel = f.divided("%unit", _field(f, CHANNELS))
    target = f.at(_pointer(f, TARGET), f.add(f.mul(image, _field(f, IMAGE_OUT)), f.mul(channel, _field(f, PLANE_OUT))))
    f.do(f"call void @pack_rows(ptr %step, ptr %bases, i64 {image}, i64 {channel}, i64 0, i64 {_field(f, OUT_HEIGHT)},"
         f" ptr {target})")  # fmt: skip
    return f.text()


def _overlapping(
    f: Function, start: str, stop: str, vector: Callable[[str], str], out: str, single: Callable[[str], str]
) -> None:  # fmt: skip
    """Write [start, stop) in vectors, the last of which overlaps the one before; one by one if there is no whole one.

    Args:
        f: That is written.
        start: First float.
        stop: After the last.
        vector: Makes the vector from a place on.
        out: Where to.
        single: Makes one.
    """
    name = f.fresh("over")
    last = f.sub(stop, f.width)
    f.branch(f.less(last, start), f"{name}.few", f"{name}.many")
    f.label(f"{name}.many")
    with f.loop(start, last, f.width) as j:
        f.store(vector(j), f.at(out, j), f.vector)
    f.store(vector(last), f.at(out, last), f.vector)
    f.jump(f"{name}.end")
    f.label(f"{name}.few")
    with f.loop(start, stop) as j:
        f.store(single(j), f.at(out, j), "float")
    f.jump(f"{name}.end")
    f.label(f"{name}.end")


def _pack_rows(width: int) -> str:
    """Some rows of a plane, padded; one in STRIDE rows and columns goes to each phase's plane."""
    arguments = [("ptr", "step"), ("ptr", "bases"), ("i64", "image"), ("i64", "channel"), ("i64", "first"),
                 ("i64", "rows"), ("ptr", "target")]  # fmt: skip
    f = Function("pack_rows", arguments, width)
    v = f.vector
    height, columns = _field(f, HEIGHT), _field(f, WIDTH)
    source = f.at(
        _pointer(f, SOURCE), f.add(f.mul("%image", _field(f, IMAGE_IN)), f.mul("%channel", _field(f, SOURCE_PLANE)))
    )
    source_row, target_row, phase_plane = (_field(f, i) for i in (SOURCE_ROW, TARGET_ROW, PHASE_OUT))
    down, right = _field(f, STRIDE), _field(f, STRIDE_COLUMNS)
    above, left = _field(f, PADDING_ROWS), _field(f, PADDING_COLUMNS)
    with f.loop(0, down) as phase_row, f.loop(0, right) as phase_column:
        out_plane = f.at("%target", f.mul(f.add(f.mul(phase_row, right), phase_column), phase_plane))
        shift = f.sub(phase_column, left)  # column of the source = j * right + shift
        # the first j with a column that is there, and the first after the last
        start = f.op(f"udiv i64 {f.add(f.maximum(f.sub(0, shift), 0), f.sub(right, 1))}, {right}")
        room = f.maximum(f.add(f.sub(f.sub(columns, shift), 1), right), 0)
        stop = f.maximum(f.minimum(f.op(f"udiv i64 {room}, {right}"), target_row), start)
        start = f.minimum(start, target_row)
        stop = f.minimum(stop, target_row)
        with f.loop(0, "%rows") as row:
            out = f.at(out_plane, f.mul(row, target_row))
            line = f.sub(f.add(f.mul(f.add(row, "%first"), down), phase_row), above)
            inside = f.op(f"icmp ult i64 {line}, {height}")  # a negative one is huge
            name = f.fresh("pack")
            f.branch(inside, f"{name}.copy", f"{name}.zero")
            f.label(f"{name}.zero")
            _fill(f, out, 0, target_row)
            f.jump(f"{name}.end")
            f.label(f"{name}.copy")
            _fill(f, out, 0, start)
            given = f.at(source, f.add(f.mul(line, source_row), shift))
            f.do(f"switch i64 {right}, label %{name}.any [ i64 1, label %{name}.one i64 2, label %{name}.two ]")
            f.label(f"{name}.one")
            _overlapping(f, start, stop, lambda j: f.load(f.at(given, j), v), out,
                         lambda j: f.load(f.at(given, j), "float"))  # fmt: skip
            f.jump(f"{name}.rest")
            f.label(f"{name}.two")

            def pair(j: str) -> str:
                # the second vector begins one float earlier, as it would reach one float past the last column
                place = f.at(given, f.mul(j, 2))
                a, b = f.load(place, v), f.load(f.at(place, width - 1), v)
                half = range(0, width, 2)
                return f.shuffle(a, b, [*half, *(width + 1 + i for i in half)])

            _overlapping(f, start, stop, pair, out, lambda j: f.load(f.at(given, f.mul(j, 2)), "float"))
            f.jump(f"{name}.rest")
            f.label(f"{name}.any")
            with f.loop(start, stop) as j:
                f.store(f.load(f.at(given, f.mul(j, right)), "float"), f.at(out, j), "float")
            f.jump(f"{name}.rest")
            f.label(f"{name}.rest")
            _fill(f, out, stop, target_row)
            f.jump(f"{name}.end")
            f.label(f"{name}.end")
    return f.text()


def _pool(width: int) -> str:
    """Maximum over a window; a unit is (image, plane). Rows first, into memory of the thread's own."""
    f = Function("pool", _STEP, width)
    v = f.vector
    channels, height, columns = (_field(f, i) for i in (CHANNELS, HEIGHT, WIDTH))
    image, channel = f.divided("%unit", channels)
    source = f.at(
        _pointer(f, SOURCE), f.add(f.mul(image, _field(f, IMAGE_IN)), f.mul(channel, _field(f, SOURCE_PLANE)))
    )
    target = f.at(_pointer(f, TARGET), f.add(f.mul(image, _field(f, IMAGE_OUT)), f.mul(channel, _field(f, PLANE_OUT))))
    _border(f, target)
    line = _base(f, WORKSPACE, f.add(_field(f, SCRATCH), f.mul("%thread", _field(f, SCRATCH_SIZE))))
    above, left = _field(f, PADDING_ROWS), _field(f, PADDING_COLUMNS)
    kernel_rows, kernel_columns = _field(f, KERNEL_ROWS), _field(f, KERNEL_COLUMNS)
    down, right = _field(f, STRIDE), _field(f, STRIDE_COLUMNS)
    source_row, target_row, out_columns = (_field(f, i) for i in (SOURCE_ROW, TARGET_ROW, OUT_WIDTH))
    pitch, out_rows = _field(f, SCRATCH_ROW), _field(f, OUT_HEIGHT)
    largest = (f"call {v} @llvm.maximum.v{width}f32({v}", v), ("call float @llvm.maximum.f32(float", "float")

    def larger(a: str, b: str, kind: str) -> str:
        call, of = next(pair for pair in largest if pair[1] == kind)
        return f.op(f"{call} {a}, {of} {b})")

    # rows first, all of them, so that what is read then was written long ago
    with f.loop(0, out_rows) as row:
        top = f.sub(f.mul(row, down), above)
        begin, end = f.maximum(top, 0), f.minimum(f.add(top, kernel_rows), height)
        middle = f.at(line, f.add(f.mul(row, pitch), left))

        def rows(kind: str) -> Callable[[str], str]:
            def made(j: str, begin: str = begin, end: str = end) -> str:
                first = f.load(f.at(f.at(source, f.mul(begin, source_row)), j), kind)
                return f.fold(f.add(begin, 1), end, first, kind, lambda r, so_far: larger(
                    so_far, f.load(f.at(f.at(source, f.mul(r, source_row)), j), kind), kind))  # fmt: skip

            return made

        _fill(f, middle, f.sub(0, left), 0, float("-inf"))
        _overlapping(f, "0", columns, rows(v), middle, rows("float"))
        _fill(f, middle, columns, f.add(f.add(columns, kernel_columns), right), float("-inf"))
    with f.loop(0, out_rows) as row:
        given, out = f.at(line, f.mul(row, pitch)), f.at(target, f.mul(row, target_row))

        def window(kind: str, step: str | int) -> Callable[[str], str]:
            def made(j: str, given: str = given) -> str:
                place = f.at(given, f.mul(j, step))
                return f.fold(1, kernel_columns, f.load(place, kind), kind, lambda k, so_far: larger(
                    so_far, f.load(f.at(place, k), kind), kind))  # fmt: skip

            return made

        name = f.fresh("columns")
        f.branch(f.op(f"icmp eq i64 {right}, 1"), f"{name}.one", f"{name}.any")
        f.label(f"{name}.one")
        _overlapping(f, "0", out_columns, window(v, 1), out, window("float", 1))
        f.jump(f"{name}.end")
        f.label(f"{name}.any")
        with f.loop(0, out_columns) as j:
            f.store(window("float", right)(j), f.at(out, j), "float")
        f.jump(f"{name}.end")
        f.label(f"{name}.end")
    return f.text()


def _upsample(width: int) -> str:
    """Each pixel STRIDE x STRIDE_COLUMNS times; a unit is (image, plane)."""
    f = Function("upsample", _STEP, width)
    v = f.vector
    channels, height, columns = (_field(f, i) for i in (CHANNELS, HEIGHT, WIDTH))
    image, channel = f.divided("%unit", channels)
    source = f.at(
        _pointer(f, SOURCE), f.add(f.mul(image, _field(f, IMAGE_IN)), f.mul(channel, _field(f, SOURCE_PLANE)))
    )
    target = f.at(_pointer(f, TARGET), f.add(f.mul(image, _field(f, IMAGE_OUT)), f.mul(channel, _field(f, PLANE_OUT))))
    _border(f, target)
    down, right = _field(f, STRIDE), _field(f, STRIDE_COLUMNS)
    source_row, target_row = _field(f, SOURCE_ROW), _field(f, TARGET_ROW)
    low = [i // 2 for i in range(width)]
    high = [width // 2 + i // 2 for i in range(width)]
    last = f.sub(columns, width)
    with f.loop(0, height) as row:
        given = f.at(source, f.mul(row, source_row))
        with f.loop(0, down) as again:
            out = f.at(target, f.mul(f.add(f.mul(row, down), again), target_row))

            def doubled(j: str, given: str = given, out: str = out) -> None:
                a = f.load(f.at(given, j), v)
                place = f.at(out, f.mul(j, 2))
                f.store(f.shuffle(a, a, low), place, v)
                f.store(f.shuffle(a, a, high), f.at(place, width), v)

            name = f.fresh("twice")
            f.branch(f.op(f"icmp eq i64 {right}, 2"), f"{name}.yes", f"{name}.no")
            f.label(f"{name}.yes")
            f.branch(f.less(last, 0), f"{name}.no", f"{name}.many")
            f.label(f"{name}.many")
            with f.loop(0, last, width) as j:
                doubled(j)
            doubled(last)  # overlaps the one before
            f.jump(f"{name}.end")
            f.label(f"{name}.no")
            with f.loop(0, columns) as j:
                one = f.load(f.at(given, j), "float")
                place = f.at(out, f.mul(j, right))
                with f.loop(0, right) as k:
                    f.store(one, f.at(place, k), "float")
            f.jump(f"{name}.end")
            f.label(f"{name}.end")
    return f.text()


def _decode_part(width: int) -> str:
    """Columns [from, to) of a row of an anchor: channels last, sigmoid or not, squared or not, scaled and shifted.

    TABLE has for each channel of the anchor: 1 for a sigmoid + 2 for a square + 4 for neither scale nor shift, the
    places of its scales and its shifts in SCALES.
    """
    arguments = [("ptr", "step"), ("ptr", "bases"), ("i64", "image"), ("i64", "anchor"), ("i64", "row"),
                 ("i64", "from"), ("i64", "to")]  # fmt: skip
    f = Function("decode_part", arguments, width)
    v = f.vector
    image, anchor, row = "%image", "%anchor", "%row"
    channels, height, columns = (_field(f, i) for i in (CHANNELS, HEIGHT, WIDTH))
    plane, source_row = _field(f, SOURCE_PLANE), _field(f, SOURCE_ROW)
    source = f.at(_pointer(f, SOURCE), f.add(f.mul(image, _field(f, IMAGE_IN)), f.mul(f.mul(anchor, channels), plane)))
    source = f.at(source, f.mul(row, source_row))
    target = f.at(_pointer(f, TARGET), f.mul(image, _field(f, IMAGE_OUT)))
    first = f.mul(f.add(f.mul(anchor, height), row), columns)
    target = f.at(target, f.mul(first, channels))
    table = f.at(_base(f, WEIGHTS, _field(f, TABLE)), f.mul(f.mul(anchor, channels), 3), "i64")
    scales = _base(f, WEIGHTS, _field(f, SCALES))
    whole = f.sub(channels, width)
    usual_from = _field(f, USUAL_FROM)

    def one(channel: str, j: str, usual: bool = False) -> str:
        x = f.load(f.at(f.at(source, f.mul(channel, plane)), j), v)
        if usual:
            return _activated(f, x, "sigmoid", "")
        entry = f.at(table, f.mul(channel, 3), "i64")
        flags = f.load(entry, "i64", 8)
        sigmoid = f.splat(f.op(f"trunc i64 {flags} to i1"), "i1")
        activated = _activated(f, x, "sigmoid", "")
        x = f.op(f"select <{width} x i1> {sigmoid}, {v} {activated}, {v} {x}")
        square = f.splat(f.op(f"trunc i64 {f.op(f'lshr i64 {flags}, 1')} to i1"), "i1")
        x = f.op(f"select <{width} x i1> {square}, {v} {f.math('fmul', x, x)}, {v} {x}")
        plain = f.op(f"trunc i64 {f.op(f'lshr i64 {flags}, 2')} to i1")
        name = f.fresh("plain")
        start = f.block
        f.branch(plain, f"{name}.end", f"{name}.scaled")
        f.label(f"{name}.scaled")
        pixel = f.add(f.mul(row, columns), j)
        scale = f.load(f.at(scales, f.add(f.load(f.at(entry, 1, "i64"), "i64", 8), pixel)), v)
        shift = f.load(f.at(scales, f.add(f.load(f.at(entry, 2, "i64"), "i64", 8), pixel)), v)
        scaled = f.fma(x, scale, shift)
        f.jump(f"{name}.end")
        f.label(f"{name}.end")
        return f.op(f"phi {v} [ {x}, %{start} ], [ {scaled}, %{name}.scaled ]")

    with f.loop("%from", "%to", width) as j:
        there = f.minimum(f.sub("%to", j), width)
        out = f.at(target, f.mul(j, channels))
        full = f.op(f"icmp sge i64 {channels}, {width}")
        name = f.fresh("shape")
        f.branch(full, f"{name}.square", f"{name}.single")
        f.label(f"{name}.square")
        with f.loop(0, channels, width) as begin:
            c = f.minimum(begin, whole)  # the last square overlaps the one before
            # where the next pixels go is fetched meanwhile
            following = f.at(out, f.add(f.mul(begin, width), f.mul(channels, width)))
            for line in range(0, width * width, 16):
                f.do(f"call void @llvm.prefetch.p0(ptr {f.at(following, line)}, i32 1, i32 3, i32 1)")
            kind = f.fresh("kind")
            f.branch(f.less(c, usual_from), f"{kind}.any", f"{kind}.usual")
            for usual in (False, True):
                f.label(f"{kind}.{'usual' if usual else 'any'}")
                square = f.transpose([one(f.add(c, i), j, usual) for i in range(width)])
                places = [f.at(out, f.add(f.mul(lane, channels), c)) for lane in range(width)]
                stored = f.fresh("stored")
                f.branch(f.op(f"icmp eq i64 {there}, {width}"), f"{stored}.all", f"{stored}.some")
                f.label(f"{stored}.all")
                for place, vector in zip(places, square):
                    f.store(vector, place, v)
                f.jump(f"{kind}.end")
                f.label(f"{stored}.some")
                for lane, vector in enumerate(square):
                    with f.when(f.less(lane, there)):
                        f.store(vector, places[lane], v)
                f.jump(f"{kind}.end")
            f.label(f"{kind}.end")
        f.jump(f"{name}.end")
        f.label(f"{name}.single")
        with f.loop(0, channels) as c:
            x = one(c, j)
            with f.loop(0, there) as i:
                f.store(f.op(f"extractelement {v} {x}, i64 {i}"), f.at(out, f.add(f.mul(i, channels), c)), "float")
        f.jump(f"{name}.end")
        f.label(f"{name}.end")
    return f.text()


def _decode(width: int) -> str:
    """A detector's map; a unit is (image, anchor, row)."""
    f = Function("decode", _STEP, width)
    rest, row = f.divided("%unit", _field(f, HEIGHT))
    image, anchor = f.divided(rest, _field(f, ANCHORS))
    channels, plane, columns = (_field(f, i) for i in (CHANNELS, SOURCE_PLANE, WIDTH))
    # the next row of each plane is fetched while this one is computed
    source = f.at(_pointer(f, SOURCE), f.add(f.mul(image, _field(f, IMAGE_IN)), f.mul(f.mul(anchor, channels), plane)))
    following = f.at(source, f.mul(f.add(row, 1), _field(f, SOURCE_ROW)))
    with f.loop(0, channels) as channel:
        line = f.at(following, f.mul(channel, plane))
        with f.loop(0, columns, 16) as pixel:
            f.do(f"call void @llvm.prefetch.p0(ptr {f.at(line, pixel)}, i32 0, i32 3, i32 1)")
    f.do(f"call void @decode_part(ptr %step, ptr %bases, i64 {image}, i64 {anchor}, i64 {row}, i64 0, i64 {columns})")
    return f.text()


def _decode_pixels(width: int) -> str:
    """Pixels [first, last) of the padded planes of all anchors, as a convolution has just made them."""
    f = Function(
        "decode_pixels",
        [("ptr", "step"), ("ptr", "bases"), ("i64", "image"), ("i64", "first"), ("i64", "last")],
        width,
    )
    pitch, columns, height = (_field(f, i) for i in (SOURCE_ROW, WIDTH, HEIGHT))
    top, _ = f.divided("%first", pitch)
    bottom, _ = f.divided(f.add("%last", f.sub(pitch, 1)), pitch)
    with f.loop(top, f.minimum(bottom, height)) as row:
        place = f.mul(row, pitch)
        begin = f.maximum(f.sub("%first", place), 0)
        end = f.minimum(f.sub("%last", place), columns)
        with f.loop(0, _field(f, ANCHORS)) as anchor:
            f.do(f"call void @decode_part(ptr %step, ptr %bases, i64 %image, i64 {anchor}, i64 {row}, i64 {begin},"
                 f" i64 {end})")  # fmt: skip
    return f.text()


def _run(width: int) -> str:
    """``run(steps, first, stop, bases, counters, threads, thread, relax)``: counters are zero before the first thread.

    ``counters`` has one i64 for the threads that have arrived, and eight floats' room on for each step; ``relax`` is
    called while waiting long, or null.
    """
    arguments = [("ptr", "steps"), ("i64", "begin"), ("i64", "end"), ("ptr", "bases"), ("ptr", "counters"),
                 ("i64", "threads"), ("i64", "thread"), ("ptr", "relax")]  # fmt: skip
    f = Function("run", arguments, width, internal=False)
    f.do("%met = alloca i64")
    f.store("%threads", "%met", "i64", 8)
    several = f.op("icmp ugt i64 %threads, 1")
    with f.loop("%begin", "%end") as number_:
        step = f.at("%steps", f.mul(number_, FIELDS), "i64")
        kind, units, meet = (f.load(f.at(step, i, "i64"), "i64", 8) for i in (KIND, UNITS, MEET))
        counter = f.at("%counters", f.mul(f.add(number_, 1), 8), "i64")
        name = f.fresh("take")
        f.jump(f"{name}.next")
        f.label(f"{name}.next")
        unit = f.op(f"atomicrmw add ptr {counter}, i64 1 monotonic")
        f.branch(f.op(f"icmp ult i64 {unit}, {units}"), f"{name}.work", f"{name}.end")
        f.label(f"{name}.work")
        names = {CONVOLUTION: "convolution", PACK: "pack", POOL: "pool", UPSAMPLE: "upsample", DECODE: "decode"}
        cases = " ".join(f"i64 {i}, label %{name}.{called}" for i, called in names.items())
        f.do(f"switch i64 {kind}, label %{name}.next [ {cases} ]")
        for called in names.values():
            f.label(f"{name}.{called}")
            f.do(f"call void @{called}(ptr {step}, ptr %bases, i64 {unit}, i64 %thread)")
            f.jump(f"{name}.next")
        f.label(f"{name}.end")
        has_to = f.op(f"icmp ne i64 {meet}, 0")
        with f.when(f.op(f"and i1 {has_to}, {several}")):
            f.op("atomicrmw add ptr %counters, i64 1 acq_rel")
            wanted = f.load("%met", "i64", 8)
            wait, before = f.fresh("wait"), f.block
            f.jump(wait)
            f.label(wait)
            f.do(f"%{wait}.i = phi i64 [ 0, %{before} ], [ %{wait}.n, %{wait}.more ]")
            arrived = f.op("load atomic i64, ptr %counters acquire, align 8")
            f.branch(f.op(f"icmp uge i64 {arrived}, {wanted}"), f"{wait}.end", f"{wait}.turn")
            f.label(f"{wait}.turn")
            f.do(f"%{wait}.n = add i64 %{wait}.i, 1")
            long = f.op(f"icmp ugt i64 %{wait}.n, 4096")
            can = f.op("icmp ne ptr %relax, null")
            f.branch(f.op(f"and i1 {long}, {can}"), f"{wait}.relax", f"{wait}.more")
            f.label(f"{wait}.relax")
            f.op("call i32 %relax()")
            f.jump(f"{wait}.more")
            f.label(f"{wait}.more")
            f.jump(wait)
            f.label(f"{wait}.end")
            f.store(f.add(wanted, "%threads"), "%met", "i64", 8)
    return f.text()
