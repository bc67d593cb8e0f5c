"""INT8 beside fp32, zeros and narrower layers: mAP, layers left in fp32, bytes, and ms with one thread and two.

    python -m benchmarks.int8 [--set bccd|coco] [--release master|v7.0|7.0.14] [--shared DIR] [--trained FILE]
                              [--model NAME=FILE ...] [--budget POINTS]
                              [--steps make quantize upstream codebooks time] [--only NAME ...] [--png FILE]

``bccd``: yolov5n fine-tuned on the train split of BCCD, its val split at 320. ``coco``: yolov5n, official weights, the
first 128 images of COCO val2017 at 640, calibrated on coco128 (train2017). Models: the dense one, also on smaller
images; zeros in blocks of 4x1 by ``val.py --prune --prune-method obs --prune-tune 0``, and narrower layers by
``yolov5-prune slim``, both without training; ``--trained`` adds a checkpoint that was trained with zeros, ``--model``
any other. Each is quantised for ONNX Runtime and OpenVINO with 64 images of the train split for calibration and no
other flag; with ``--budget`` once more for ONNX Runtime, with ``quantize --budget POINTS``.
``upstream`` is YOLOv5's own ``export.py --include openvino --int8`` of the dense model; it works at 640 only.

``codebooks``: ``.y5z`` files of the dense model and the trained one with 8 bits and fewer by k-means, and with evenly
spaced values (``--codebook even``), and what ``quantize`` makes of those with 8 bits, whose values INT8 takes.

Points are against fp32 in ONNX Runtime. (OpenVINO takes bf16 for what is floating point, in val.py as everywhere, where
a CPU has it; the times are with fp32, and with bf16 in a column of its own.)

Times: in a process for each number of threads; all runtimes of a model take turns, each call right after one that is
not timed. Medians, and the ratio to fp32 in the same runtime and round. What is measured is kept in
``benchmarks/results/int8``; a step that is not named prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy import prepare
from benchmarks.oneshot import data_of
from benchmarks.table import print_table
from yolov5_prune_plugin.errors import NoResultError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.reporting.figure import canvas, open_frame, save_png

SMALLER = {"bccd": (256, 224), "coco": (512,)}
ZEROS = {"bccd": (0.3, 0.5, 0.6), "coco": (0.5,)}
FLOPS = {"bccd": (0.7, 0.5), "coco": (0.7,)}
STEPS = ("make", "quantize", "upstream", "codebooks", "time")
FORMATS = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
TRAINED = "80% zeros, trained"


def main() -> None:
    """Take the steps that are asked for, and print the tables."""
    mirror = os.environ.get("YOLOV5_MIRROR")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared")))
    parser.add_argument("--release", default="master" if mirror else "7.0.14")
    parser.add_argument("--set", choices=tuple(SMALLER), default="bccd")
    parser.add_argument("--trained", type=Path, help="a checkpoint with 80%% zeros, trained so")
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME=FILE", help="more checkpoints")
    parser.add_argument("--budget", type=float, help="quantise for ONNX Runtime within so many points, too")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--only", nargs="+", help="models of the table")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/int8"), help="for models")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/int8"))
    parser.add_argument("--png", type=Path, help="a picture of accuracy against time, two threads")
    parser.add_argument("--timed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.timed:
        time_all(options)
        return
    place = options.results / f"{options.set}.json"
    if options.steps not in ([], ["time"]) and not (options.shared / "weights" / "yolov5n.pt").is_file():
        print(f"int8: no official weights at {options.shared}; give --shared DIR with weights/ and data/")
        return
    with tempfile.TemporaryDirectory() as temporary:
        if options.steps not in ([], ["time"]):
            prepared = Prepared(options, Path(temporary), mirror)
            for step in options.steps:
                if step != "time":
                    getattr(prepared, step)()
        if "time" in options.steps:
            for threads in (1, 2):
                command = [sys.executable, "-m", "benchmarks.int8", *sys.argv[1:], "--timed", str(threads)]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    show(options.set, json.loads(place.read_text()))
    if options.png:
        draw(options.set, json.loads(place.read_text()), options.png)


class Prepared:
    """Weights, data and scripts, and the folder of models."""

    def __init__(self, options: argparse.Namespace, folder: Path, mirror: str | None) -> None:
        """Lay out the data.

        Args:
            options: Of the command line.
            folder: A temporary one.
            mirror: A clone of upstream.
        """
        self.options, self.temporary = options, folder
        self.weights, self.data, size = data_of(options.set, options.shared.resolve(), folder)
        self.size = int(size)
        self.target, self.path = prepare(options.release, folder, mirror)
        self.out: Path = options.out.resolve() / options.set
        self.out.mkdir(parents=True, exist_ok=True)

    def lines(self) -> Iterator[tuple[str, Path, int]]:
        """Name, checkpoint and image size of each model."""
        yield "dense", self.weights, self.size
        for size in SMALLER[self.options.set]:
            yield f"dense at {size}", self.weights, size
        if self.options.trained:
            yield TRAINED, self.options.trained.resolve(), self.size
        for name, _, file in (one.partition("=") for one in self.options.model):
            yield name, Path(file).resolve(), self.size
        for zeros in ZEROS[self.options.set]:
            yield f"{zeros:.0%} zeros, one-shot", self.out / f"zeros{zeros}.pt", self.size
        for flops in FLOPS[self.options.set]:
            yield f"slim, {flops:g} of the FLOPs", self.out / f"slim{flops}.pt", self.size

    def chosen(self) -> Iterator[tuple[str, Path, int]]:
        """Those that are asked for."""
        for name, file, size in self.lines():
            if not self.options.only or name in self.options.only:
                yield name, file, size

    def script(self, name: str) -> str:
        """What ``yolov5-prune run`` takes."""
        return self.target.replace("val.py", f"{name}.py") if self.target.endswith(".py") else f"yolov5.{name}"

    def ours(self, *arguments: object, may_fail: bool = False) -> None:
        """Run our command line; what it prints is shown if it fails, unless it may."""
        command = [sys.executable, "-m", "yolov5_prune_plugin", *map(str, arguments)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": self.path}, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, cwd=self.temporary)  # fmt: skip
        if done.returncode and not may_fail:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")

    def repo(self) -> tuple[object, ...]:
        """The checkout, for commands."""
        return ("--repo", Path(self.target).parent) if self.target.endswith(".py") else ()

    def make(self) -> None:
        """Build the checkpoints and export them in fp32."""
        for name, file, size in self.chosen():
            if not file.exists() and "zeros" in name:
                self.ours("run", self.target, "--weights", self.weights, "--data", self.data, "--imgsz", size,
                          "--device", "cpu", "--batch-size", 8, "--workers", 0, "--prune", file.stem[5:],
                          "--prune-method", "obs", "--prune-granularity", "4x1", "--prune-tune", 0, "--prune-save",
                          file, "--project", self.temporary)  # fmt: skip
            elif not file.exists():
                self.ours("slim", self.weights, "--target", f"flops={file.stem[4:]}", "-o", file, "--data", self.data,
                          "--imgsz", size, "--no-val", *self.repo())  # fmt: skip
            exported = self.place(name) / "fp32.onnx"
            if not exported.exists():
                copied = self.place(name) / "model.pt"
                copied.write_bytes(file.read_bytes())
                self.ours("run", self.script("export"), "--weights", copied, "--imgsz", size, "--include", "onnx",
                          "--opset", 17, "--device", "cpu")  # fmt: skip
                copied.with_suffix(".onnx").rename(exported)
            print("|", name, exported.stat().st_size, flush=True)

    def place(self, name: str) -> Path:
        """The folder of a model's files."""
        folder = self.out / name.replace(" ", "-").replace("%", "").replace(",", "")
        folder.mkdir(exist_ok=True)
        return folder

    def quantize(self) -> None:
        """Quantise each model for both runtimes, validated before and after."""
        for name, file, size in self.chosen():
            budget = self.options.budget
            for kind in (*FORMATS, *(["onnx within"] if budget else [])):
                within = ("--budget", budget) if kind == "onnx within" else ()
                output = self.place(name) / ("int8_openvino_model" if kind == "openvino" else
                                             "within_int8.onnx" if within else "int8.onnx")  # fmt: skip
                if not output.exists():
                    self.ours("quantize", file, "-o", output, "--data", self.data, "--imgsz", size, "--rounds", 0,
                              *within, *self.repo(), may_fail=bool(within))  # fmt: skip
                report = json.loads((output.with_name(f"{output.stem}_quantize") / "report.json").read_text())
                self.keep(name, f"{kind} {budget:g}" if within else f"{kind} int8", {
                    "fp32": report["before"]["map"], "map": report["after"]["map"], "bytes": report["bytes_after"],
                    "zipped": zipped(output), "fp32_bytes": report["bytes_before"],
                    "fp32_zipped": zipped(self.place(name) / "fp32.onnx"),
                    "fp32_layers": report["end_layers"] + len(report["fp32_layers"]), "imgsz": size,
                })  # fmt: skip

    def upstream(self) -> None:
        """YOLOv5's own INT8 for OpenVINO, of the dense model."""
        from yolov5_prune_plugin.commands.quantize.measure import validate_exported
        from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream

        upstream = find_upstream(Path(self.target).parent if self.target.endswith(".py") else None)
        for name, _, size in self.chosen():
            if name != "dense":
                continue
            folder = self.place(name) / "model_int8_openvino_model"
            try:
                if not folder.exists():
                    self.ours("run", self.script("export"), "--weights", self.place(name) / "model.pt", "--imgsz", size,
                              "--include", "openvino", "--int8", "--data", self.data, "--device", "cpu")  # fmt: skip
                figures = validate_exported(upstream, "", folder, str(self.data), (size, size), self.temporary / "v")
            except (SystemExit, NoResultError) as error:
                self.keep(name, "upstream", {"failed": str(error).strip().splitlines()[-1]})
                continue
            size_on_disk = sum(file.stat().st_size for file in folder.iterdir())
            self.keep(name, "upstream", {"map": figures["map"], "bytes": size_on_disk, "zipped": zipped(folder)})

    def codebooks(self) -> None:
        """Pack the dense model and the trained one with k-means and with evenly spaced values."""
        for name, file, size in self.chosen():
            if name not in ("dense", TRAINED):
                continue
            for key in ("k-means, 8", "k-means, 7", "k-means, 6", "even, 8", "even, 7"):
                codebook, bits = key.split(", ")
                packed = self.place(name) / f"{codebook}-{bits}.y5z"
                packed.unlink(missing_ok=True)
                self.ours("compress", file, "-o", packed, "--bits", bits, "--codebook", codebook)
                self.ours("run", self.target, "--weights", packed, "--data", self.data, "--imgsz", size, "--device",
                          "cpu", "--batch-size", 8, "--workers", 0, "--prune", 0, "--project", self.temporary, "--name",
                          "packed", "--exist-ok")  # fmt: skip
                report = json.loads((self.temporary / "packed" / "prune" / "report.json").read_text())
                facts = {"map": report["map"], "bytes": packed.stat().st_size}
                for kind in FORMATS if key == "even, 8" else ():
                    output = packed.with_name("packed_int8.onnx" if kind == "onnx" else "packed_int8_openvino_model")
                    if not output.exists():
                        self.ours("quantize", packed, "-o", output, "--data", self.data, "--imgsz", size, "--rounds", 0,
                                  *self.repo())  # fmt: skip
                    folder = output.with_name(f"{output.stem}_quantize")
                    facts[kind] = json.loads((folder / "report.json").read_text())["after"]["map"]
                self.keep(name, key, facts)

    def keep(self, name: str, key: str, facts: dict[str, Any]) -> None:
        """Write what was measured into the results.

        Args:
            name: Of the model.
            key: Of the measurement.
            facts: What was found.
        """
        kept(self.options.results / f"{self.options.set}.json", name, key, facts)
        print("|", name, key, {k: v for k, v in facts.items() if "byte" not in k}, flush=True)


def kept(place: Path, name: str, key: str, facts: dict[str, Any]) -> None:
    """Add one measurement to a file of results.

    Args:
        place: The file.
        name: Of the model.
        key: Of the measurement.
        facts: What was found.
    """
    found = json.loads(place.read_text()) if place.is_file() else {}
    found.setdefault(name, {})[key] = facts
    place.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(place) as file:
        file.write_text(json.dumps(found, indent=1) + "\n")


def zipped(place: Path) -> int:
    """Bytes of a zip archive (deflate) of a file or folder."""
    with tempfile.TemporaryFile() as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in [place] if place.is_file() else sorted(place.iterdir()):
                archive.write(file, file.name)
        return stream.tell()


def time_all(options: argparse.Namespace) -> None:
    """Time all models with one number of threads; the data are not needed.

    Args:
        options: Of the command line.
    """
    import torch

    from benchmarks.runtime import _openvino
    from yolov5_prune_plugin import api
    from yolov5_prune_plugin.commands.bench.runtimes import open_runtime
    from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio

    torch.set_num_threads(options.timed)
    api.use()
    results = options.results / f"{options.set}.json"
    found = json.loads(results.read_text())
    for name in options.only or [name for name in found if "openvino int8" in found[name]]:
        folder = options.out / options.set / name.replace(" ", "-").replace("%", "").replace(",", "")
        size = found[name]["onnx int8"]["imgsz"]
        files = {"onnx": ("onnx", folder / "fp32.onnx"), "openvino": ("openvino", folder / "fp32.onnx")}
        files["onnx int8"] = ("onnx", folder / "int8.onnx")
        files["openvino int8"] = ("openvino", folder / "int8_openvino_model" / "int8.xml")
        upstreams = folder / "model_int8_openvino_model" / "model.xml"
        if upstreams.exists():
            files["upstream"] = ("openvino", upstreams)
        none, x = torch.nn.Identity(), torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        calls = {key: open_runtime(runtime, none, file, options.timed) for key, (runtime, file) in files.items()}
        calls["bf16"] = _openvino(folder / "fp32.onnx", "bf16", options.timed)
        calls["sparse"] = open_runtime("sparse", api.load(folder / "model.pt"), folder, options.timed)
        with torch.no_grad():
            times = in_turns({key: (lambda call=call, x=x: call(x)) for key, call in calls.items()}, options.rounds,
                             lead=1)  # fmt: skip
        facts: dict[str, Any] = {key: round(statistics.median(values), 3) for key, values in times.items()}
        for key in [key for key in files if key not in FORMATS]:
            base = "openvino" if key == "upstream" else key.partition(" ")[0]
            facts[f"{key} faster"] = [round(value, 3) for value in ratio(times[base], times[key])]
        kept(results, name, f"ms-{options.timed}", facts)
        print("|", name, options.timed, facts, flush=True)


def show(name: str, found: dict[str, Any]) -> None:
    """Print two tables: what is lost and how large it is; and the times.

    Args:
        name: Of the set.
        found: By model and measurement.
    """
    rows, times = [], []
    whole = {model: facts for model, facts in found.items() if all(f"{kind} int8" in facts for kind in FORMATS)}
    for model, facts in whole.items():
        first = facts["onnx int8"]
        rows.append((model, "fp32", "", f"{first['fp32']:.4f}", "", f"{first['fp32_bytes']:,}",
                     f"{first['fp32_zipped']:,}"))  # fmt: skip
        found_here = {f"INT8, {what}": facts[f"{kind} int8"] for kind, what in FORMATS.items()}
        found_here |= {f"INT8, ONNX Runtime, --budget {key.split()[-1]}": one for key, one in facts.items()
                       if key.startswith("onnx within")}  # fmt: skip
        for what, one in found_here.items():
            rows.append(("", what, str(one["fp32_layers"]), f"{one['map']:.4f}",
                         f"{100 * (one['map'] - first['fp32']):+.2f}", f"{one['bytes']:,}",
                         f"{one['zipped']:,}"))  # fmt: skip
        one = facts.get("upstream", {})
        if "failed" in one:
            rows.append(("", "export.py --int8, OpenVINO", "fails", "", "", "", ""))
        if "map" in one:
            rows.append(("", "export.py --int8, OpenVINO", "", f"{one['map']:.4f}",
                         f"{100 * (one['map'] - first['fp32']):+.2f}", f"{one['bytes']:,}",
                         f"{one['zipped']:,}"))  # fmt: skip
        for threads in (1, 2):
            ms = facts.get(f"ms-{threads}")
            if ms:
                ratios = ["{:.2f} ({:.2f}-{:.2f})".format(*ms[f"{kind} int8 faster"]) for kind in FORMATS]
                cells = [cell for kind, ratio in zip(FORMATS, ratios)
                         for cell in (f"{ms[kind]:.2f}", f"{ms[f'{kind} int8']:.2f}", ratio)]  # fmt: skip
                upstream = f"{ms['upstream']:.2f}" if "upstream" in ms else ""
                times.append((model, str(threads), *cells, f"{ms['bf16']:.2f}", upstream,
                              f"{ms['sparse']:.2f}"))  # fmt: skip
    books = [(model, key, f"{one['map']:.4f}", f"{one['bytes']:,}",
              *(f"{one[kind]:.4f}" if kind in one else "" for kind in FORMATS)) for model, facts in found.items()
             for key, one in facts.items() if key.startswith(("k-means", "even,"))]  # fmt: skip
    if books:
        print_table(f"{name}: codebooks", ("model", "values, bits", "mAP50-95", "bytes of the .y5z",
                    *(f"INT8, {what}" for what in FORMATS.values())), books)  # fmt: skip
    print_table(f"{name}: what INT8 costs, and bytes", ("model", "", "layers in fp32", "mAP50-95", "points", "bytes",
                                                      "zipped"), rows)  # fmt: skip
    header = ("model", "threads", "ONNX Runtime fp32", "INT8", "faster", "OpenVINO fp32", "INT8", "faster",
              "OpenVINO bf16", "export.py --int8", "sparse runtime")  # fmt: skip
    print_table(f"{name}: ms an image", header, times)


def draw(name: str, found: dict[str, Any], file: Path) -> None:
    """Plot mAP against ms, two threads.

    Args:
        name: Of the set.
        found: By model and measurement.
        file: The PNG.
    """
    ms = {model: facts["ms-2"] for model, facts in found.items() if "ms-2" in facts}
    dense = [model for model in ms if model.startswith("dense")]
    zeros = [model for model in ms if "one-shot" in model]
    slim = [model for model in ms if model.startswith("slim")]

    def points(models: list[str], runtime: str, figure: str) -> tuple[list[float], list[float]]:
        best = [min(("onnx", "openvino"), key=lambda one: ms[model][one]) for model in models]
        x = [ms[model][where if runtime == "fp32" else runtime] for model, where in zip(models, best)]
        return x, [found[model][figure]["fp32" if runtime in ("fp32", "sparse", "bf16") else "map"] for model in models]

    lines = [
        ("dense, fp32, at 320 and on smaller images", dense, "fp32", "onnx int8", "--s", "#777777"),
        ("dense, bf16 in OpenVINO, the same", dense, "bf16", "openvino int8", ":d", "#333333"),
        ("dense, INT8 in OpenVINO, the same", dense, "openvino int8", "openvino int8", "-o", "#1f6fb4"),
        ("dense, INT8 in ONNX Runtime, the same", dense, "onnx int8", "onnx int8", "-^", "#7fb2de"),
        ("zeros, one-shot, in the sparse runtime (fp32)", zeros, "sparse", "onnx int8", "-D", "#d9622b"),
        ("slim, untrained, fp32", slim, "fp32", "onnx int8", "-v", "#3a8f4d"),
        ("slim, untrained, INT8 in OpenVINO", slim, "openvino int8", "openvino int8", "-P", "#8cc79a"),
    ]
    if TRAINED in ms:
        lines += [
            (f"{TRAINED}, in the sparse runtime (fp32)", [TRAINED], "sparse", "onnx int8", "*", "#a03010"),
            (f"{TRAINED}, INT8 in OpenVINO", [TRAINED], "openvino int8", "openvino int8", "X", "#7a4fa3"),
        ]
    figure = canvas(8.0, 5.0)
    axes = figure.subplots()
    for label, models, runtime, figures, style, colour in lines:
        axes.plot(*points(models, runtime, figures), style, color=colour, label=label, markersize=6, linewidth=1.2)
    axes.set_xlabel("ms an image, two threads")
    axes.set_ylabel("mAP50-95")
    axes.set_title(f"yolov5n on {name.upper()}: accuracy against time", loc="left", fontsize=10)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.6 * (high - low), high)  # room for the legend
    axes.legend(fontsize=7, frameon=False, loc="lower left", ncols=2)
    open_frame(axes)
    save_png(figure, file)


if __name__ == "__main__":
    main()
