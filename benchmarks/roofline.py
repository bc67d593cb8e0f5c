"""How near each convolution of the sparse runtime comes to what the machine allows, as a picture.

    python -m benchmarks.roofline [--model yolov5n] [--zeros 0 0.8 0.95] [--block 4] [-o docs/roofline.png]

A point is a convolution: multiplications by weights that are not zero, a second, over those for each byte that it has
to read or write once (its input, its output, its stream of weights). The roof is what one core multiplies and adds at
most with vectors in registers, and what it reads from the second cache, the third and the memory; all are measured.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.runtime import _model, zeroed
from benchmarks.table import print_table
from yolov5_prune_plugin.core.runtime import native
from yolov5_prune_plugin.core.runtime.fast import FastModel
from yolov5_prune_plugin.core.runtime.ir import Function
from yolov5_prune_plugin.core.runtime.plan import aligned
from yolov5_prune_plugin.core.runtime.streams import entries

SUMS = 12  # vectors that are added to at once
SIZES = {"second cache": 512 << 10, "third cache": 6 << 20, "memory": 256 << 20}
REPEATS = 9


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5n")
    parser.add_argument("--zeros", nargs="+", type=float, default=[0, 0.8, 0.95])
    parser.add_argument("--block", type=int, default=4)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("-o", "--output", default="docs/roofline.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peak, bandwidth = roofs()
    print(f"peak: {peak / 1e9:.0f} billion multiplications and additions a second; "
          + ", ".join(f"{place} {speed / 1e9:.0f} GB/s" for place, speed in bandwidth.items()))  # fmt: skip
    model = _model(options.model)
    points: dict[str, list[tuple[float, float]]] = {}
    for share in options.zeros:
        found = layers(zeroed(model, share, options.block), options.imgsz)
        label = f"{share:.0%} zeros"
        points[label] = [(one["multiplied"] / one["bytes"], one["multiplied"] / one["seconds"]) for one in found]
        slow = sorted(found, key=lambda one: -one["seconds"])
        total = sum(one["seconds"] for one in found)
        rows = []
        for one in slow[:12]:
            least = max(one["multiplied"] / peak, one["bytes"] / bandwidth["third cache"])
            seconds = one["seconds"]
            rates = [f"{one[what] / seconds / 1e9:.0f}" for what in ("multiplied", "bytes")]
            rows.append(
                (one["name"], f"{seconds * 1e3:.2f}", f"{seconds / total:.0%}", *rates, f"{least / seconds:.0%}")
            )
        title = f"{options.model}, {label} in blocks of {options.block}: {total * 1e3:.1f} ms in convolutions"
        print_table(title, ("layer", "ms", "share", "G multiplications/s", "GB/s", "of the roof"), rows)
    draw(points, peak, bandwidth, options)


def roofs() -> tuple[float, dict[str, float]]:
    """Multiplications and additions a second, and bytes a second that are read, by where from; of one core."""
    target = native.this_machine()
    width = target.width
    f = Function("multiply", [("ptr", "out"), ("i64", "count")], width, internal=False)
    factor = f.splat(f.load("%out", "float"))
    f.jump("again")
    f.label("again")
    place = len(f.lines)
    f.lines += [""] * (SUMS + 1)
    new = [f.fma(factor, factor, f"%sum{i}") for i in range(SUMS)]
    f.do("%n.next = add i64 %n, 1")
    f.branch(f.op("icmp ult i64 %n.next, %count"), "again", "done")
    f.lines[place] = "  %n = phi i64 [ 0, %entry ], [ %n.next, %again ]"
    for i in range(SUMS):
        f.lines[place + 1 + i] = f"  %sum{i} = phi {f.vector} [ {factor}, %entry ], [ {new[i]}, %again ]"
    f.label("done")
    for i, vector in enumerate(new):
        f.store(vector, f.at("%out", i * width), f.vector)
    g = Function("read", [("ptr", "out"), ("ptr", "in"), ("i64", "count")], width, internal=False)
    g.jump("again")
    g.label("again")
    place = len(g.lines)
    g.lines += [""] * 5
    new = [
        g.math("fadd", f"%sum{i}", g.load(g.at(g.at("%in", "%n"), i * width), g.vector, 4 * width)) for i in range(4)
    ]
    g.do(f"%n.next = add i64 %n, {4 * width}")
    g.branch(g.op("icmp ult i64 %n.next, %count"), "again", "done")
    g.lines[place] = "  %n = phi i64 [ 0, %entry ], [ %n.next, %again ]"
    for i in range(4):
        g.lines[place + 1 + i] = f"  %sum{i} = phi {g.vector} [ zeroinitializer, %entry ], [ {new[i]}, %again ]"
    g.label("done")
    for i, vector in enumerate(new):
        g.store(vector, g.at("%out", i * width), g.vector)
    engine = compiled(f"declare {f.vector} @llvm.fmuladd.v{width}f32({f.vector}, {f.vector}, {f.vector})\n"
                      + f.text() + g.text(), target)  # fmt: skip
    out = aligned(SUMS * width)
    whole, pointer = ctypes.c_int64, ctypes.c_void_p
    multiply = ctypes.CFUNCTYPE(None, pointer, whole)(engine.get_function_address("multiply"))
    count = 2_000_000
    peak = count * SUMS * width / fastest(lambda: multiply(out.ctypes.data, count))
    read = ctypes.CFUNCTYPE(None, pointer, pointer, whole)(engine.get_function_address("read"))
    speeds = {}
    for place, size in SIZES.items():
        data = aligned(size // 4)
        data.fill(1)
        times = max(1, (64 << 20) // size)
        seconds = fastest(lambda: [read(out.ctypes.data, data.ctypes.data, size // 4) for _ in range(times)])  # noqa: B023
        speeds[place] = size * times / seconds
    return peak, speeds


def compiled(text: str, target: native.Target) -> Any:
    """Machine code of LLVM IR for this machine."""
    import llvmlite.binding as llvm

    machine = native._machine(target)
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = llvm.get_process_triple(), str(machine.target_data)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def layers(model: torch.nn.Module, size: int) -> list[dict[str, Any]]:
    """What each convolution multiplies and moves, and how long it takes in a frame."""
    fast = FastModel(model)
    x = torch.rand(1, 3, size, size)
    fast(x)
    program = fast.program(x)
    times = np.full(len(program.plan.steps), np.inf)
    for _ in range(2 * REPEATS):
        times = np.minimum(times, program.timed(x, threads=1))
    found = []
    for i, layer in enumerate(program.plan.layers):
        c, block = layer.convolution, layer.choice.block
        weight = c.weight.numpy()
        pixels = int(np.prod(c.target.shape[2:]))
        added = int(np.prod(c.added.shape)) if c.added is not None else 0
        moved = int(np.prod(c.source.shape)) + int(np.prod(c.target.shape)) + added
        found.append({"name": c.name or str(i), "seconds": float(times[layer.steps.start : layer.steps.stop].sum()),
                      "multiplied": float(np.count_nonzero(weight)) * pixels,
                      "bytes": 4.0 * (moved + entries(weight, block) * (block + 1))})  # fmt: skip
    return found


def draw(
    points: dict[str, list[tuple[float, float]]], peak: float, bandwidth: dict[str, float], options: argparse.Namespace
) -> None:  # fmt: skip
    """The picture.

    Args:
        points: (multiplications a byte, multiplications a second) of the convolutions, by label.
        peak: Multiplications a second.
        bandwidth: Bytes a second, by where they come from.
        options: Of the command line.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    xs = np.geomspace(0.05, 200, 200)
    for (place, speed), style in zip(bandwidth.items(), ("-", "--", ":")):
        axes.plot(xs, np.minimum(xs * speed, peak) / 1e9, style, color="0.4", linewidth=1, label=f"roof: {place}")
    for (label, pairs), marker in zip(points.items(), "os^Dv"):
        x, y = zip(*pairs)
        axes.scatter(x, np.array(y) / 1e9, s=22, marker=marker, label=label, alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="multiplications by non-zeros, a byte read or written",
             ylabel="billions of them a second", ylim=(0.2, 300),
             title=f"Convolutions of {options.model} at {options.imgsz}, one core")  # fmt: skip
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(options.output, dpi=110)
    print(options.output)


if __name__ == "__main__":
    main()
