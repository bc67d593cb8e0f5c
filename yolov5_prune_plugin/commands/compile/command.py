"""``yolov5-prune compile``: parse, plan, compile, link, open again and compare."""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import time
from pathlib import Path
from typing import Any, Optional

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.commands.compile.flags import CompileOptions
from yolov5_prune_plugin.commands.model import image_size, open_model
from yolov5_prune_plugin.errors import NoResultError, PruneError, named
from yolov5_prune_plugin.files import check_new_file, temporary_folder, written_all, written_together
from yolov5_prune_plugin.options import build
from yolov5_prune_plugin.reporting.next_steps import ours, say_next
from yolov5_prune_plugin.reporting.run_folder import check_place

HEADER = "detector.h"
MOVED = {False: 1e-3, True: 0.05}  # of the largest number: what outputs may differ from the model's, by --half
ROUNDS = 7  # timed frames
FLAGS = {"target": "--target", "cpu": "--cpu"}


def compile_file(options: argparse.Namespace) -> int:
    """Write a model as a native library, or as a page for a browser.

    Args:
        options: ``weights``, ``output``, ``imgsz``, ``repo`` and ``CompileOptions``.

    Returns:
        0.

    Raises:
        PruneError: If something given is wrong; nothing is written then.
        NoResultError: If the library does not compute what the model does.
    """
    config: CompileOptions = build(options, CompileOptions)
    from yolov5_prune_plugin.core.runtime.native import missing

    if missing():
        raise PruneError("needs llvmlite, which compiles the kernels: pip install 'yolov5-prune-plugin[compile]'",
                         "compile")  # fmt: skip
    from yolov5_prune_plugin.commands.compile.link import compiler
    from yolov5_prune_plugin.core.library import targets

    with named(**FLAGS):
        machine = targets.machine_of(config.target, config.cpu)
    _check_output(options.output, machine)
    compiler(machine)

    from yolov5_prune_plugin.reporting.console import plain_console
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream, stride_of, task_of

    console = plain_console()
    started = time.perf_counter()
    upstream = find_upstream(options.repo)
    model = open_model(upstream, options.weights)
    task = task_of(model)
    size = image_size(options.imgsz, task, stride_of(model))
    threads = 1 if machine.wasm else config.threads
    with console.status("planning"):
        data, about = _model(model, task, size, config, machine, threads, str(options.weights))
    with console.status("compiling"):
        kernels = {targets.symbol(target): targets.compiled(target) for target in targets.targets_of(machine)}
    lost: Optional[dict[str, Any]] = None
    try:
        folder = temporary_folder()
    except OSError as error:
        raise PruneError(f"no folder for temporary files can be made: {error.strerror}; set TMPDIR to one") from error
    with folder as place:
        made = Path(place) / f"detector{machine.suffix}"
        with console.status("linking"):
            _link(machine, kernels, data, made, Path(place))
        if machine.name == targets.this_kind():
            lost = _compared(made, model, task, config)
        seconds = time.perf_counter() - started
        files = _written(made, options.output, machine, options.weights.stem)
    _say(console, options, machine, about, files, lost, seconds, upstream, task)
    return 0


def _check_output(output: Path, machine: Any) -> None:
    if machine.wasm:
        if output.suffix in (".wasm", ".so", ".dll", ".js", ".html"):
            raise PruneError(f"-o {output}: with --target wasm it is a folder, such as web/")
        check_new_file("-o", output)
        return
    if output.suffix != machine.suffix:
        raise PruneError(f"-o {output}: must end in {machine.suffix} for {machine.name}")
    check_place("-o", output)
    header = output.with_name(HEADER)
    if header.exists() and not filecmp.cmp(header, _source() / HEADER, shallow=False):
        raise PruneError(f"-o {output}: {header} beside it is another, of another version; move it away")


def _source() -> Path:
    from yolov5_prune_plugin.core.library import targets

    return Path(targets.__file__).parent


def _model(
    model: Any, task: str, size: tuple[int, int], config: CompileOptions, machine: Any, threads: int, name: str
) -> tuple[bytes, dict[str, Any]]:
    """The model as the library has it, and what the library says of itself."""
    import torch

    from yolov5_prune_plugin.commands.compile.layers import Outputs, layer_with
    from yolov5_prune_plugin.core.library import pack, targets
    from yolov5_prune_plugin.core.runtime import choose
    from yolov5_prune_plugin.core.runtime.graph import trace
    from yolov5_prune_plugin.core.runtime.plan import Planner
    from yolov5_prune_plugin.yolov5.checkout.upstream import stride_of

    network = Outputs(model, task)
    images = torch.zeros(config.batch, 3, *size)
    programs, kinds = [], targets.targets_of(machine)
    with named(default=name):
        for target in kinds:
            shapes = targets.planned(target)
            planner = Planner(trace(network, images), shapes, 1)
            labels = choose.labels(planner)
            if targets.runs_here(shapes):
                chosen = choose.measured(planner)
            else:
                chosen = {c: choose.candidates(c.weight.numpy(), c.groups, shapes)[0] for c in labels}
            choices = {labels[c]: way for c, way in chosen.items()}
            for several in sorted({1, threads}):
                programs.append(pack.program(trace(network, images), shapes, several, choices))
    names = model.names.values() if isinstance(model.names, dict) else model.names
    about = {
        "task": task.rstrip("/") or "detect", "imgsz": list(size), "batch": config.batch, "stride": stride_of(model),
        "names": [str(one).replace("\0", "") for one in names], "target": machine.name,
        "kernels": [target.level for target in kinds], "threads": threads, "half": config.half,
        "writer": f"yolov5-prune-plugin {__version__}",
    }  # fmt: skip
    try:
        return pack.write(programs, about["task"], about["names"], json.dumps(about), config.half), about
    except PruneError as error:
        if error.field != "operation":
            raise
        operation = error.message.rpartition(" ")[2]
        layer = layer_with(model, operation, images[:1])
        raise PruneError(
            f"{layer or 'a layer'} does {operation}, for which there is no native kernel; export.py --include onnx"
            " writes such a model, and val.py --sparse-runtime runs it with PyTorch for that layer",
            name) from None  # fmt: skip


def _link(machine: Any, kernels: dict[str, bytes], data: bytes, made: Path, folder: Path) -> None:
    from yolov5_prune_plugin.commands.compile.link import link

    try:
        link(machine, kernels, data, made, folder)
    except OSError as error:
        raise PruneError(f"the library cannot be written to {folder.parent}: {error.strerror or error}; set TMPDIR to"
                         " a folder with more room") from error  # fmt: skip


def _compared(made: Path, model: Any, task: str, config: CompileOptions) -> dict[str, Any]:
    """Run the library on an image of noise beside the model.

    Raises:
        NoResultError: If they do not agree.
    """
    import torch

    from yolov5_prune_plugin.commands.compile.layers import Outputs
    from yolov5_prune_plugin.core.library.loaded import Library

    try:
        library = Library(made, 1)
    except PruneError as error:
        if "instructions" not in error.message:
            raise
        return {"reason": "this processor cannot run it"}
    images = torch.rand(library.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = Outputs(model, task)(images)
    expected = expected if isinstance(expected, tuple) else (expected,)
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = library(images)
        times.append(time.perf_counter() - started)
    library.close(unload=True)
    moved = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(found, expected))
    if not moved <= MOVED[config.half]:
        raise NoResultError(f"the library's outputs differ from the model's by {moved:.2g} of the largest; nothing is"
                            " written")  # fmt: skip
    return {"moved": moved, "ms": sorted(times)[0] * 1e3}


def _written(made: Path, output: Path, machine: Any, title: str) -> dict[str, int]:
    """Move what was made to its place; whole, or not at all. Files and their bytes."""
    try:
        if machine.wasm:
            from yolov5_prune_plugin.core.library.web import write_page

            with written_together(output) as folder:
                write_page(folder, made, title)
            return {str(file): file.stat().st_size for file in sorted(output.iterdir())}
        header = output.with_name(HEADER)
        files = {output: made}
        if not header.exists():
            files[header] = _source() / HEADER
        if machine.windows:
            files[output.with_suffix(".lib")] = made.with_suffix(".lib")
        with written_all(list(files), overwrite=False) as places:
            for place, source in zip(places, files.values()):
                shutil.copyfile(source, place)
                place.chmod(0o755 if source == made else 0o644)
    except OSError as error:
        raise PruneError(f"cannot be written: {error.strerror or error}; nothing was left there", f"-o {output}"
                         ) from error  # fmt: skip
    return {str(file): file.stat().st_size for file in files}


def _say(
    console: Any, options: argparse.Namespace, machine: Any, about: dict[str, Any], files: dict[str, int],
    lost: Optional[dict[str, Any]], seconds: float, upstream: Any, task: str,
) -> None:  # fmt: skip
    from yolov5_prune_plugin.commands.validate import script_command

    output: Path = options.output
    height, width = about["imgsz"]
    kinds = "" if machine.wasm else f" ({', '.join(about['kernels'])})"
    batch = f", batch {about['batch']}" if about["batch"] > 1 else ""
    threads = "" if machine.wasm else f", up to {about['threads']} threads"
    for file, size in files.items():
        console.print(f"{file}: {size:,} bytes", soft_wrap=True)
    console.print(f"{machine.name}{kinds}, {height}x{width}{batch}{threads}; compiled in {seconds:.0f} s",
                  soft_wrap=True)  # fmt: skip
    if lost and "moved" in lost:
        console.print(f"opened again: what the model computes, within {lost['moved']:.1g} of the largest number;"
                      f" {lost['ms']:.1f} ms a batch on this machine, one thread", soft_wrap=True)  # fmt: skip
    elif not machine.wasm:
        console.print(f"not run: {lost['reason'] if lost else 'this is no ' + machine.name + ' machine'}")
    options.result = {"file": str(output), "files": files, **about, "seconds": seconds, "compared": lost}
    steps = {}
    if machine.wasm:
        steps["show the page"] = f"python -m http.server --directory {output}"
    elif lost and "moved" in lost:
        steps["measure it"] = script_command(upstream, f"{task}val.py", "--weights", output, "--data", "DATA")
        steps["a C program with it"] = f"cc main.c {output} -Wl,-rpath,'$ORIGIN'"
        steps["a page of it"] = ours("compile", options.weights, "--target", "wasm", "-o", "web")
    say_next(console, steps)
