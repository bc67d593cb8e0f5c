"""``yolov5-prune bench``: what models cost and how fast they run, side by side; ratios to the first one."""

from __future__ import annotations

import argparse
import importlib
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from rich.console import Console

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.commands.curve.fingerprint import device, processor
from yolov5_prune_plugin.commands.validate import validate
from yolov5_prune_plugin.errors import NoResultError, PruneError
from yolov5_prune_plugin.files import check_folder, temporary_folder
from yolov5_prune_plugin.reporting.bench_report import costs_table, latency_table, write_bench
from yolov5_prune_plugin.reporting.console import bar, plain_console
from yolov5_prune_plugin.reporting.labels import label as figure_label
from yolov5_prune_plugin.reporting.next_steps import ours, say_next

CLOSE = 1e-4  # outputs of another runtime on the CPU, relative to PyTorch's; TensorRT rounds to TF32


def bench(options: argparse.Namespace) -> int:
    """Time models side by side in several runtimes; print tables, and write bench.json and bench.png.

    Returns:
        0; 1 if outputs of a runtime differ from PyTorch's by more than 1e-4 of the largest.

    Raises:
        PruneError: If something given is wrong.
        NoResultError: If a model can't be exported.
    """
    if len({str(file) for file in options.weights}) < len(options.weights):
        raise PruneError("bench: the same file is given twice")
    check_folder("--project", options.project)

    import torch

    from yolov5_prune_plugin.commands.bench.runtimes import NAMES, ON_GPU
    from yolov5_prune_plugin.core.channels.cost import Cost
    from yolov5_prune_plugin.yolov5.checkout.upstream import as_used, find_upstream, stride_of, task_of

    console = plain_console()
    left_out = _left_out(options.runtimes, console)
    there = [runtime for runtime in NAMES if runtime in options.runtimes and runtime not in left_out]
    upstream = find_upstream(options.repo)
    models, labels = [], _labels(options.weights)
    content: dict[str, Any] = {"imgsz": options.imgsz, "threads": torch.get_num_threads(), "rounds": options.rounds,
                               "data": options.data or None, "cpu": processor(), "device": device(),
                               "versions": _versions(there), "left_out": left_out, "models": {},
                               "latency": []}  # fmt: skip
    for label, file in zip(labels, options.weights):
        model = upstream.load(file)[1]
        if task_of(model) != "classify/" and options.imgsz % stride_of(model):
            raise PruneError(
                f"--imgsz {options.imgsz}: must be a multiple of {stride_of(model)}, {file}'s largest stride"
            )
        cost = Cost(model, [], torch.rand(1, 3, options.imgsz, options.imgsz)).of({})
        content["models"][label] = {"file": str(file), "bytes": file.stat().st_size, **cost}
        models.append(as_used(model))
        if options.data:
            name, value = validate(upstream, task_of(model), file, options.data, options.imgsz, options.batch_size)
            content["models"][label] |= {"figure": name, "value": value}
            console.print(f"{file}: {figure_label(name)} {value:.4f}", soft_wrap=True)
    close = True
    turns = len(there) * sum(_rounds(options, batch) for batch in options.batches)
    with temporary_folder() as folder, bar("rounds", turns) as step:
        for runtime in there:
            for batch in options.batches:
                rows = _time(runtime, models, labels, options, batch, Path(folder), step)
                content["latency"] += rows
                for row in rows:
                    if runtime not in ON_GPU and row.get("difference", 0) > CLOSE:
                        close = False
                        console.print(f"{NAMES[runtime]}: outputs of {row['model']} differ by {row['difference']:.2g}",
                                      style="red")  # fmt: skip
    console.print(costs_table(content))
    console.print(latency_table(content, NAMES))
    write_bench(content, options.project, NAMES)
    options.result = content
    console.print(f"report: {options.project}", soft_wrap=True)
    first, repo = options.weights[0], ["--repo", options.repo] if options.repo else []
    steps = {}
    if not options.data:
        steps["what each model finds, beside its speed"] = ours(
            "bench", *options.weights, "--imgsz", options.imgsz, "--data", "DATA", *repo
        )
    if len(options.weights) == 1:
        name = f"{first.stem}-slim.pt"
        data = ("--data", options.data or "DATA", "--imgsz", options.imgsz)
        steps["a faster model: half of the FLOPs"] = ours(
            "slim", first, "--target", "flops=0.5", "-o", name, *data, *repo
        )
    say_next(console, steps)
    return int(not close)


def _versions(runtimes: Sequence[str]) -> dict[str, str]:
    """Of everything that what was timed depends on."""
    from yolov5_prune_plugin.commands.bench.runtimes import NEEDS

    names = {"torch", *(name for runtime in runtimes for name in NEEDS.get(runtime, ()))}
    found = {name: str(importlib.import_module(name).__version__) for name in sorted(names)}
    return {"yolov5_prune_plugin": __version__, "python": platform.python_version(), **found}


def _left_out(runtimes: Sequence[str], console: Console) -> dict[str, str]:
    from yolov5_prune_plugin.commands.bench.runtimes import NAMES, missing

    found = {runtime: reason for runtime in runtimes if (reason := missing(runtime))}
    for runtime, reason in found.items():
        console.print(f"{NAMES[runtime]} left out: {reason}")
    if found.keys() >= set(runtimes):
        raise PruneError("--runtimes: none of them is there; pytorch always is")
    return found


def _labels(files: Sequence[Path]) -> list[str]:
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [str(file) for file in files]


def _rounds(options: argparse.Namespace, batch: int) -> int:
    return max(5, options.rounds // (1 if batch == 1 else 4))


def _time(
    runtime: str,
    models: Sequence[Any],
    labels: Sequence[str],
    options: argparse.Namespace,
    batch: int,
    folder: Path,
    step: Callable[[], None],
) -> list[dict[str, Any]]:
    import torch

    from yolov5_prune_plugin.commands.bench.runtimes import NEEDS, ON_GPU, difference, export_onnx, open_runtime
    from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio

    runs, onnx = {}, {}
    for index, (label, model) in enumerate(zip(labels, models)):
        onnx[label] = folder / f"{index}-{batch}.onnx"
        if runtime in NEEDS and not onnx[label].exists():
            try:
                export_onnx(model, options.imgsz, onnx[label], batch)
            except Exception as error:  # whatever the exporter makes of it
                raise NoResultError(
                    f"{label} cannot be exported to ONNX: {' '.join(str(error).split())[:200]}"
                ) from error
        runs[label] = open_runtime(runtime, model, onnx[label], torch.get_num_threads())
    x = torch.rand(batch, 3, options.imgsz, options.imgsz)
    calls = {label: (lambda run=run: run(x)) for label, run in runs.items()}  # type: ignore[misc]
    times = in_turns(calls, _rounds(options, batch), progress=step)
    rows = []
    for label, model in zip(labels, models):
        middle, low, high = ratio(times[labels[0]], times[label])
        row = {"runtime": runtime, "batch": batch, "model": label, "ms": sorted(times[label])[len(times[label]) // 2],
               "times": times[label], "speedup": middle, "speedup_low": low, "speedup_high": high}  # fmt: skip
        if (runtime in NEEDS or runtime == "sparse") and batch == 1:
            row["difference"] = difference(model, runs[label], options.imgsz)
        peak = None if runtime in ON_GPU else _peak(runtime, model, onnx[label], options, batch, folder)
        if peak is not None:
            row["peak_bytes"] = peak
        rows.append(row)
        if runtime == "cuda":
            model.cpu()
    return rows


def _peak(
    runtime: str, model: Any, onnx: Path, options: argparse.Namespace, batch: int, folder: Path
) -> Optional[int]:  # fmt: skip
    """Measured alike for all runtimes: each opens a file that holds the model as it is used."""
    import torch

    from yolov5_prune_plugin.commands.bench.runtimes import NEEDS

    file = onnx
    if runtime not in NEEDS:
        file = folder / "used.pt"
        torch.save(model, file)
    words = [runtime, str(file), str(options.imgsz), str(batch), str(options.repo or "")]
    command = [sys.executable, "-m", "yolov5_prune_plugin.commands.bench.memory", *words]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("PEAK ")]
    return int(found[0]) if done.returncode == 0 and found else None
