"""Compiled libraries beside the sparse runtime, and in WebAssembly beside onnxruntime-web on the dense model.

    python -m benchmarks.library [--models yolov5n] [--zeros 0.3 0.5 0.8 0.9] [--blocks 1 4] [--web FOLDER] [--shared]

Random zeros in equal shares in every convolution, as in benchmarks.runtime. For each: seconds of ``yolov5-prune
compile``, bytes, whether outputs are the runtime's bit by bit, and milliseconds in turns with it (image tensor in,
detections out, one thread; medians over rounds of the ratio). With ``--web``, the folder ``dist`` of the npm package
onnxruntime-web, a library for browsers runs in node, and in Chromium, in turns with it: whole frames, 8-bit pixels in,
boxes out; its side is timed from the tensor to its outputs.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.runtime import zeroed
from benchmarks.table import print_table

SCRIPT = Path(__file__).with_name("library.mjs")


def main() -> None:
    """Compile, measure, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["yolov5n"], help="yolov5n (default), s, m, l or x; or files")
    parser.add_argument("--zeros", nargs="+", type=float, default=[0.3, 0.5, 0.8, 0.9])
    parser.add_argument("--blocks", nargs="+", type=int, default=[1, 4], help="outputs that share zeros (1 4)")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--web", type=Path, help="folder dist of the npm package onnxruntime-web; needs node")
    parser.add_argument("--shared", action="store_true", help="values shared by layer, 32 of them")
    parser.add_argument("--keep", type=Path, help="folder for what is compiled; taken from there if it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for name in options.models:
            measure(name, place, options)


def dense_model(name: str) -> torch.nn.Module:
    """A checkpoint's model, or one with random weights.

    Args:
        name: Of the file, or of a model as upstream's yaml has it.
    """
    from yolov5_prune_plugin import api
    from yolov5_prune_plugin.yolov5.seams.quiet import quiet

    api.use()
    if Path(name).is_file():
        return api.load(name)
    import yolov5.models.yolo as yolo

    torch.manual_seed(0)
    with quiet():
        return yolo.DetectionModel(str(Path(yolo.__file__).with_name(f"{name}.yaml"))).eval()


def shared(model: torch.nn.Module, values: int = 32) -> torch.nn.Module:
    """Give the weights of each layer few values, in place.

    Args:
        model: With zeros, which stay.
        values: How many by layer.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            weight = module.weight.data
            largest = float(weight.abs().max())
            levels = torch.linspace(-largest, largest, values)
            near = levels[torch.bucketize(weight.contiguous(), (levels[1:] + levels[:-1]) / 2)]
            module.weight.data = torch.where(weight == 0, weight, near)
    return model


def compiled(weights: Path, output: Path, *flags: str) -> float:
    """Seconds of ``yolov5-prune compile``; nothing is done for what is there.

    Args:
        weights: The checkpoint.
        output: Where to.
        flags: Of the command.
    """
    if output.exists():
        return float("nan")
    started = time.perf_counter()
    command = [sys.executable, "-m", "yolov5_prune_plugin.cli", "compile", str(weights), "-o", str(output), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(name: str, place: Path, options: argparse.Namespace) -> None:
    """Compile one model with all amounts of zeros, and print its tables.

    Args:
        name: Of a model, or a checkpoint.
        place: Folder for files.
        options: Of the command line.
    """
    from yolov5_prune_plugin import api
    from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio

    torch.set_num_threads(1)
    dense = dense_model(name)
    x = torch.rand(1, 3, options.imgsz, options.imgsz)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    stem, size = Path(name).stem, ("--imgsz", str(options.imgsz))
    rows, runs, libraries = [], {}, {}
    kinds = [(block, share) for block in options.blocks for share in options.zeros]
    for block, share in kinds:
        key = f"{block}x1 {share:.0%}"
        label = f"{stem}-{block}-{share:g}{'-shared' if options.shared else ''}"
        model = zeroed(dense, share, block)
        if options.shared:
            shared(model)
        weights, library, web = place / f"{label}.pt", place / f"{label}.so", place / label
        if not weights.exists():
            torch.save({"model": copy.deepcopy(model).half()}, weights)
        seconds = compiled(weights, library, *size)
        web_seconds = compiled(weights, web, "--target", "wasm", *size) if options.web else float("nan")
        if options.web:
            libraries[key] = web
        row = [key, f"{library.stat().st_size:,}", f"{seconds:.0f}"]
        row += [f"{(web / 'detector.wasm').stat().st_size:,}", f"{web_seconds:.0f}"] if options.web else []
        here, fast = api.load_library(library, 1), api.fast(api.load(weights))
        with torch.no_grad():
            same = torch.equal(here(x)[0], fast(x)[0])
        rows.append([*row, "yes" if same else "no"])
        runs[key] = here, fast
    head = ["zeros", ".so bytes", "compile s", *([".wasm bytes", "compile s"] if options.web else []), "same bits"]
    print_table(f"{name}, imgsz {options.imgsz}: libraries", head, rows)
    table = []
    for key, (here, fast) in runs.items():
        with torch.no_grad():
            calls = {
                "library": lambda h=here: h(x),
                "runtime": lambda f=fast: f(x),
                "frame": lambda h=here: h.detect(image),
            }
            times = in_turns(calls, options.rounds)  # type: ignore[arg-type]
        middle, low, high = ratio(times["library"], times["runtime"])
        ms = {kind: f"{sorted(of)[len(of) // 2]:.1f}" for kind, of in times.items()}
        table.append([key, ms["library"], ms["runtime"], f"{middle:.2f}", f"{low:.2f}-{high:.2f}", ms["frame"]])
    print_table(f"{name}: ms, one thread, {here.about['kernels'][-1]} at most; time beside the runtime's",
                ["zeros", "library", "runtime", "ratio", "quartiles", "whole frame"], table)  # fmt: skip
    if options.web:
        _web(name, dense, libraries, place, options)


def _web(
    name: str, dense: torch.nn.Module, libraries: dict[str, Path], place: Path, options: argparse.Namespace
) -> None:
    """Libraries for browsers and onnxruntime-web on the dense model, in turns in node, and in Chromium."""
    from yolov5_prune_plugin.commands.bench.runtimes import export_onnx

    onnx = place / f"{Path(name).stem}-{options.imgsz}.onnx"
    if not onnx.exists():
        export_onnx(dense, options.imgsz, onnx, 1)
    for measured in (_in_node, _in_chromium):
        found = measured(onnx, libraries, place, options)
        if found is None:
            continue
        rows = [["onnxruntime-web, dense", f"{found['base']:.0f}", "1.00", ""]]
        rows += [[key, f"{of['ms']:.0f}", f"{of['ratio']:.2f}", f"{of['low']:.2f}-{of['high']:.2f}"]
                 for key, of in found["libraries"].items()]  # fmt: skip
        print_table(f"{name}, imgsz {options.imgsz}: WebAssembly (SIMD) in {found['where']}, one thread; times as fast",
                    ["", "ms a frame", "ratio", "quartiles"], rows)  # fmt: skip


def _in_node(onnx: Path, libraries: dict[str, Path], place: Path, options: argparse.Namespace) -> Any:
    node = shutil.which("node")
    if not node:
        return None
    given = {key: str(folder.resolve()) for key, folder in libraries.items()}
    command = [node, str(SCRIPT), str(options.web.resolve()), str(onnx.resolve()), str(options.imgsz),
               str(options.rounds), json.dumps(given)]  # fmt: skip
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(re.findall(r"^\{.*\}$", ran.stdout, re.M)[-1])


def _in_chromium(onnx: Path, libraries: dict[str, Path], place: Path, options: argparse.Namespace) -> Any:
    from tests.core.library.browser import browser, chromium, served

    if not chromium():
        return None
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "dist").symlink_to(options.web.resolve())
        (root / "model.onnx").symlink_to(onnx.resolve())
        shutil.copyfile(SCRIPT, root / "library.mjs")
        (root / "index.html").write_text("<!doctype html><title>times</title>")
        given = {}
        for i, (key, library) in enumerate(libraries.items()):
            (root / f"l{i}").symlink_to(library.resolve())
            given[key] = f"/l{i}"
        script = f"""(async () => {{
            const ort = await import("/dist/ort.wasm.min.mjs"), {{ measured }} = await import("/library.mjs");
            ort.env.wasm.numThreads = 1;
            ort.env.wasm.wasmPaths = location.origin + "/dist/";
            const bytes = async (place) => new Uint8Array(await (await fetch(place)).arrayBuffer());
            return await measured(ort, bytes, (place) => place, "/model.onnx", {options.imgsz}, {options.rounds},
                {json.dumps(given)});
        }})()"""
        with browser() as page, served(root) as address:
            page.open(address)
            version = page.call("Browser.getVersion")["product"].replace("Headless", "").replace("Chrome/", "Chromium ")
            return {"where": version, **page.run(script, 600)}


if __name__ == "__main__":
    main()
