"""The sparse runtime beside ONNX Runtime and OpenVINO on the dense model, both fp32, and beside PyTorch.

    python -m benchmarks.runtime [--models yolov5n] [--zeros 0 0.5 0.8 0.9] [--blocks 1 4] [--threads 1 2] [--imgsz 640]

Random zeros in equal shares in every convolution; the whole model, image tensor in, decoded detections out. For each
amount of zeros, the sparse runtime takes turns with ONNX Runtime and OpenVINO; in each turn one call goes before the
one that is timed. The figures are medians over rounds of the ratio to the faster of the two, with quartiles. Each
number of threads has a process of its own. ``--layers`` prints multiplications a second by layer. ``--scaling`` times
each model with one and two threads in turns instead, and PyTorch in the same turns: two processors of a virtual
machine may be two threads of one core.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import print_table


def main() -> None:
    """Measure, print a table for each model, size and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["yolov5n"], help="yolov5n (default), s, m, l or x; or files")
    parser.add_argument("--zeros", nargs="+", type=float, default=[0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
    parser.add_argument("--blocks", nargs="+", type=int, default=[1, 4], help="outputs that share zeros (1 4)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--level", help="kernels: avx512, avx2 or sse; by default the processor's best")
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine, one thread")
    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        choices=("pytorch", "bf16", "int8"),
        help="dense, too: PyTorch, and OpenVINO in these types (int8: every convolution, QDQ)",
    )
    parser.add_argument("--layers", action="store_true", help="each layer of the last model too")
    parser.add_argument("--scaling", action="store_true", help="two threads against one")
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scaling:
        for model in options.models:
            scale(model, options)
        return
    if options.only:
        for model in options.models:
            measure(model, options)
        return
    for threads in options.threads:
        command = [sys.executable, "-m", "benchmarks.runtime", *sys.argv[1:], "--only", "--threads", str(threads)]
        subprocess.run(command, check=True)


def zeroed(model: torch.nn.Module, share: float, block: int) -> torch.nn.Module:
    """Copy a model and zero a share of each convolution at random, in blocks of output channels.

    Args:
        model: The dense one.
        share: Of the weights.
        block: Outputs that share their zeros.
    """
    made = copy.deepcopy(model)
    torch.manual_seed(0)
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d) and share:
            many = -(-len(module.weight) // block)
            kept = torch.rand(many, *module.weight.shape[1:]) >= share
            module.weight.data.mul_(kept.repeat_interleave(block, 0)[: len(module.weight)])
    return made


def scale(name: str, options: argparse.Namespace) -> None:
    """Time one model with one and two threads in turns, and print the table.

    Args:
        name: Of a model, or a checkpoint.
        options: Of the command line.
    """
    from yolov5_prune_plugin import api
    from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio

    model = _model(name)
    x = torch.rand(options.batch, 3, options.imgsz, options.imgsz)
    shares = [(b, z) for b in options.blocks for z in options.zeros if z or b == options.blocks[0]]
    rows = []

    def threaded(threads: int, run: Any) -> None:
        torch.set_num_threads(threads)
        run(x)

    with torch.no_grad():
        for block, share in shares:
            runs = {"sparse": api.fast(zeroed(model, share, block), level=options.level), "PyTorch": model}
            turns = {(name, threads): (lambda threads=threads, run=run: threaded(threads, run))  # type: ignore[misc]
                     for name, run in runs.items() for threads in (1, 2)}  # fmt: skip
            times = in_turns(turns, options.rounds, warm=2, lead=1)
            for one in runs:
                middle, low, high = ratio(times[one, 1], times[one, 2])
                rows.append((f"sparse {block}x1 {share:.0%}" if one == "sparse" else "  PyTorch, dense",
                             *(f"{statistics.median(times[one, threads]):.1f}" for threads in (1, 2)),
                             f"{middle:.2f}", f"{low:.2f}-{high:.2f}"))  # fmt: skip
    title = f"{name}, imgsz {options.imgsz}, batch {options.batch}: two threads against one, {options.rounds} rounds"
    print_table(title, ("", "one thread, ms", "two, ms", "times as fast", "quartiles"), rows)


def measure(name: str, options: argparse.Namespace) -> None:
    """Time one model with all amounts of zeros in turns, and print the table.

    Args:
        name: Of a model, or a checkpoint.
        options: Of the command line.
    """
    import onnxruntime  # noqa: F401  # both have to be there before anything is timed
    import openvino  # noqa: F401

    from yolov5_prune_plugin import api
    from yolov5_prune_plugin.commands.bench.runtimes import export_onnx, open_runtime
    from yolov5_prune_plugin.core.runtime import native
    from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio

    (threads,) = options.threads[-1:]
    torch.set_num_threads(threads)
    model = _model(name)
    x = torch.rand(options.batch, 3, options.imgsz, options.imgsz)
    clock = time.process_time if options.processor_time else time.perf_counter
    rows, fast = [], {}

    def timed(runs: dict[str, Any], key: str, rounds: int) -> None:
        with torch.no_grad():
            times = in_turns({one: (lambda run=run: run(x)) for one, run in runs.items()}, rounds,  # type: ignore[misc]
                             warm=1, clock=clock, lead=1)  # fmt: skip
        base = min(("onnx", "openvino"), key=lambda one: statistics.median(times[one]))
        middle, low, high = ratio(times[base], times[key])
        rows.append((key, f"{statistics.median(times[key]):.1f}", f"{statistics.median(times[base]):.1f} {base}",
                     f"{middle:.2f}", f"{low:.2f}-{high:.2f}"))  # fmt: skip

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "model.onnx"
        export_onnx(model, options.imgsz, file, options.batch)
        base = {runtime: open_runtime(runtime, model, file, threads) for runtime in ("onnx", "openvino")}
        for kind in options.beside:
            run = open_runtime("pytorch", model, file, threads) if kind == "pytorch" else _openvino(file, kind, threads)
            timed({**base, kind: run}, kind, max(3, options.rounds // 3))
    for block in options.blocks:
        for share in options.zeros:
            if share or block == options.blocks[0]:
                key = f"sparse {block}x1 {share:.0%}"
                fast[key] = api.fast(zeroed(model, share, block), level=options.level)
                started = time.perf_counter()
                fast[key](x)
                ready = time.perf_counter() - started
                timed({**base, key: fast[key]}, key, options.rounds)
                rows[-1] = (*rows[-1], f"{ready:.1f}")
                print(*rows[-1], file=sys.stderr, flush=True)
                if not options.layers:
                    del fast[key]
    level = options.level or native.this_machine().level
    print_table(
        f"{name}, imgsz {options.imgsz}, batch {options.batch}, threads: {threads}, {level} kernels,"
        f" {options.rounds} rounds{' of processor time' if options.processor_time else ''}",
        ("", "ms", "dense, the faster", "times as fast", "quartiles", "ready in s"),
        [(*row, "")[:6] for row in rows],
    )
    if options.layers:
        for key in fast:
            layers = [
                (one.name, one.kernel, f"{one.before:.2f}", f"{one.ms:.2f}",
                 f"{one.multiplications / one.ms / 1e6:.0f}",
                 f"{one.multiplications * (1 - one.zeros) / one.ms / 1e6:.0f}")
                for one in fast[key].layers(x)
            ]  # fmt: skip
            title = f"{name}, {key}, threads: {threads}: billions of multiplications a second, with and without zeros"
            print_table(title, ("layer", "kernel", "PyTorch ms", "ms", "with", "without"), layers)  # fmt: skip


def _openvino(file: Path, kind: str, threads: int) -> Any:
    """OpenVINO in bf16, or in int8 after every convolution was quantised on random images (speed only)."""
    import numpy as np
    import openvino

    if kind == "int8":
        from onnxruntime import quantization

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                shape = openvino.Core().read_model(file).inputs[0].shape
                self.left = [np.random.default_rng(i).random(tuple(shape), np.float32) for i in range(2)]

            def get_next(self) -> Any:
                return {"images": self.left.pop()} if self.left else None

        made = file.with_name("int8.onnx")
        quantization.quantize_static(file, made, Reader(), op_types_to_quantize=["Conv"], per_channel=True)
        file = made
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32"}  # fmt: skip
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    return lambda x: list(compiled(x.numpy()).values())


def _model(name: str) -> torch.nn.Module:
    from yolov5_prune_plugin import api

    api.use()
    if Path(name).is_file():
        return api.load(name)
    import yolov5.models.yolo as yolo

    torch.manual_seed(0)
    return yolo.DetectionModel(str(Path(yolo.__file__).with_name(f"{name}.yaml"))).fuse().eval()


if __name__ == "__main__":
    main()
