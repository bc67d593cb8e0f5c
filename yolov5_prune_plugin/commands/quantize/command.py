"""``yolov5-prune quantize``: post-training INT8, its accuracy checked, layers that cost it left in floating point."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from yolov5_prune_plugin.commands.model import image_size, open_model
from yolov5_prune_plugin.commands.quantize.flags import QuantizeOptions
from yolov5_prune_plugin.errors import NoResultError, PruneError
from yolov5_prune_plugin.files import new_file, temporary_folder, written_together
from yolov5_prune_plugin.options import build
from yolov5_prune_plugin.reporting.console import bar, plain_console
from yolov5_prune_plugin.reporting.run_folder import check_place

LEFT = 0.5  # of the summed error: layers are kept in floating point until no more is left
MOST = 0.1  # of the layers, at most, without --budget
HELD_OUT = 8  # images of the train split on which layers are tried, beside those for calibration
OPSET = "17"
PADDING = 114 / 255  # upstream's grey


@dataclass
class Work:
    """What is known of one quantisation.

    Attributes:
        upstream: The YOLOv5 that it is done with.
        task: The folder of the scripts of the model's task.
        data: For --data.
        size: Height and width in pixels.
        source: The exported model in floating point.
        images: For calibration, each [1, 3, H, W].
        held_out: For trying layers.
        errors: Of each layer when it alone is quantised, in the graph's order.
        kind: ``onnx`` or ``openvino``.
        folder: For temporary files.
    """

    upstream: Any
    task: str
    data: str
    size: tuple[int, int]
    source: Path
    images: list[Any]
    held_out: list[Any]
    kind: str
    folder: Path
    errors: dict[str, float] = field(default_factory=dict)

    def ranked(self) -> list[str]:
        """The layers, the most costly first."""
        return sorted(self.errors, key=lambda name: -self.errors[name])

    def made(self, kept: Sequence[str], name: str) -> Path:
        """Quantise all layers but some.

        Args:
            kept: Layers that stay in floating point.
            name: Of the file or folder, which lies in a folder of its own.
        """
        from yolov5_prune_plugin.commands.quantize.backends import quantise_onnx, quantise_openvino

        place = self.folder / f"made{len(kept)}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        quantise = quantise_onnx if self.kind == "onnx" else quantise_openvino
        quantise(self.source, place / name, self.images, kept)
        return place / name

    def figures(self, model: Path, data: Optional[Path] = None) -> dict[str, float]:
        """What upstream's val.py measures.

        Args:
            model: In the runtime's format.
            data: Another data set than the run's.
        """
        from yolov5_prune_plugin.commands.quantize.measure import validate_exported

        return validate_exported(self.upstream, self.task, model, str(data or self.data), self.size,
                                 self.folder / "val")  # fmt: skip


def quantize(options: argparse.Namespace) -> int:
    """Write an INT8 model of a checkpoint, and a report of what it lost.

    Args:
        options: ``weights``, ``output``, ``data``, ``imgsz``, ``repo`` and ``QuantizeOptions``.

    Returns:
        0; 1 if it is within the budget on training images and not on the val split.

    Raises:
        PruneError: If something given is wrong; nothing is written then.
        NoResultError: If a validation failed, or the budget can't be kept.
    """
    from yolov5_prune_plugin.commands.quantize.backends import backend_of

    config: QuantizeOptions = build(options, QuantizeOptions)
    kind = backend_of(options.output)
    check_place("-o", options.output)
    if config.budget is not None and config.keep_fp32 is not None:
        raise PruneError("--budget finds how many layers stay in floating point; leave --keep-fp32 out")
    if config.budget is not None and not 0 <= config.budget <= 100:
        raise PruneError(f"--budget {config.budget:g}: must be points of mAP, from 0 to 100")

    from yolov5_prune_plugin.reporting.quantize_report import QuantizeReport
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream, stride_of, task_of
    from yolov5_prune_plugin.yolov5.seams.seams import load_scripts

    console = plain_console()
    upstream = find_upstream(options.repo)
    model = open_model(upstream, options.weights)
    task, stride = task_of(model), stride_of(model)
    size = image_size(options.imgsz, task, stride)
    figure = load_scripts()[f"{task}val.py"].figure
    with temporary_folder() as place:
        folder = Path(place)
        drawn = upstream.calibration(task, model, options.data, max(size), config.calib + HELD_OUT, "train",
                                     config.seed)  # fmt: skip
        images = [_fitted(batch, size) for batch in drawn.batches(1)]
        if len(images) < 2:
            raise PruneError("has one image in its train split; calibration needs some more", f"--data {options.data}")
        held_out = images[-min(HELD_OUT, len(images) // 2) :]
        calibration = images[: len(images) - len(held_out)]
        training, number = Path(), 0
        if config.budget is not None:
            training, number = upstream.held_out(task, options.data, drawn.files, config.budget_images, config.seed,
                                                 folder / "held-out")  # fmt: skip
        source = _exported(upstream, task, options.weights, size, folder / "export")
        work = Work(upstream, task, options.data, size, source, calibration, held_out, kind, folder)
        report = QuantizeReport(console, options.output, str(options.weights), kind, figure, size)
        work.errors = _errors(work)
        if config.budget is None:
            kept = _costly(work, config.keep_fp32)
            made = work.made(kept, options.output.name)
        else:
            report.chosen_on(number)
            kept, made = _within(work, training, config.budget / 100, figure, options.output.name, report)
        before, after = (None, None) if config.no_val else (work.figures(_plain(work)), work.figures(made))
        times = _times(work, made, config.rounds) if config.rounds else None
        _keep(made, options.output)
        report.done(work.errors, kept, before, after, times, _bytes(source), _bytes(options.output), _ends(source))
    if config.budget is None or before is None or after is None:
        return 0
    return int(report.lost_more(before[figure] - after[figure], config.budget / 100))


def _fitted(batch: Any, size: tuple[int, int]) -> Any:
    """An image of upstream's loader in the shape of the exported model: its rectangle in the middle, grey around it."""
    import torch.nn.functional as F

    height, width = batch.shape[2:]
    down, right = max(0, size[0] - height), max(0, size[1] - width)
    padded = F.pad(batch.float(), (right // 2, right - right // 2, down // 2, down - down // 2), value=PADDING)
    top, left = (padded.shape[2] - size[0]) // 2, (padded.shape[3] - size[1]) // 2
    return padded[:, :, top : top + size[0], left : left + size[1]].contiguous().numpy()


def _exported(upstream: Any, task: str, weights: Path, size: tuple[int, int], folder: Path) -> Path:
    """The model as upstream's own export.py writes it to ONNX, with its names and stride in it."""
    from yolov5_prune_plugin.jobs.process import Job, last_lines, run

    folder.mkdir()
    copy = folder / weights.name
    shutil.copyfile(weights, copy)
    job = Job(("-m", "yolov5_prune_plugin", "run", upstream.script("export.py"), "--weights", str(copy), "--imgsz",
               *map(str, size), "--include", "onnx", "--opset", OPSET, "--device", "cpu"),
              folder / "job", str(weights), Path.cwd())  # fmt: skip
    ended = run(job, {})
    found = sorted(folder.glob("*.onnx"))
    if ended.code != 0 or not found:
        lines = "\n".join(last_lines(job.log, 8))
        raise NoResultError(f"export.py wrote no ONNX of {weights} ({ended}):\n{lines}")
    return found[0]


def _errors(work: Work) -> dict[str, float]:
    """The error of each layer when it alone is INT8, on images that calibration has not seen."""
    import onnx

    from yolov5_prune_plugin.commands.quantize import graph
    from yolov5_prune_plugin.commands.quantize.backends import quantise_onnx

    full = work.folder / "full.onnx"
    quantise_onnx(work.source, full, work.images, [])
    model = onnx.load(str(work.source))
    layers = graph.layers_of(model.graph)
    roundings = graph.rounding_in(onnx.load(str(full)).graph, layers)
    reference = list(graph.runs(work.source, work.held_out))
    found = {}
    with bar("layers", len(roundings)) as step:
        for layer in layers:
            if layer.name in roundings:
                alone = graph.only_one(model, layer, roundings[layer.name], work.kind == "onnx")
                outputs = graph.runs(alone, work.held_out)
                several = [graph.error(one, other) for one, other in zip(reference, outputs)]
                found[layer.name] = sum(several) / len(several)
                step()
    return found


def _costly(work: Work, number: Optional[int]) -> list[str]:
    """The layers that stay in floating point without a budget."""
    ranked = work.ranked()
    if number is not None:
        return ranked[:number]
    total, kept, left = sum(work.errors.values()), [], sum(work.errors.values())
    for name in ranked[: int(MOST * len(ranked))]:
        if left <= LEFT * total:
            break
        kept.append(name)
        left -= work.errors[name]
    return kept


def _within(work: Work, data: Path, points: float, figure: str, name: str, report: Any) -> tuple[list[str], Path]:
    """The fewest costly layers in floating point with which a validation on training images is within the budget."""
    ranked = work.ranked()
    before = work.figures(_plain(work), data)[figure]
    tried: dict[int, tuple[Path, float]] = {}

    def holds(number: int) -> bool:
        if number not in tried:
            made = work.made(ranked[:number], name)
            tried[number] = (made, work.figures(made, data)[figure])
            report.tried(number, before, tried[number][1])
        return tried[number][1] >= before - points

    low, high = -1, 0  # low does not hold, high may
    while not holds(high):
        low, high = high, max(1, 2 * high)
        if high >= len(ranked):
            worst = max(value for _, value in tried.values())
            raise NoResultError(f"--budget {100 * points:g}: {figure} on training images is {before:.4f} in floating"
                                f" point and {worst:.4f} at best in INT8, with {low} of {len(ranked)} layers left out;"
                                " nothing is written. Take a larger budget, or more images (--calib)")  # fmt: skip
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return ranked[:high], tried[high][0]


def _ends(source: Path) -> int:
    """How many layers stay in floating point wherever."""
    import onnx

    from yolov5_prune_plugin.commands.quantize.graph import ends_of

    return len(ends_of(onnx.load(str(source)).graph))


def _plain(work: Work) -> Path:
    """The model in floating point in the format that the INT8 one is in."""
    if work.kind == "onnx":
        return work.source
    import onnx
    import openvino

    from yolov5_prune_plugin.commands.quantize.backends import OPENVINO, save_openvino

    folder = work.folder / f"plain{OPENVINO}"
    if not folder.exists():
        facts = {one.key: one.value for one in onnx.load(str(work.source)).metadata_props}
        save_openvino(openvino.Core().read_model(str(work.source)), folder, facts)
    return folder


def _times(work: Work, made: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds a frame of both in the same runtime, in turns."""
    import torch

    from yolov5_prune_plugin.commands.bench.runtimes import open_runtime
    from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio

    runtime = "onnx" if work.kind == "onnx" else "openvino"
    files = {"fp32": work.source, "int8": made if work.kind == "onnx" else next(made.glob("*.xml"))}
    x = torch.from_numpy(work.held_out[0])
    calls = {label: open_runtime(runtime, torch.nn.Identity(), file, torch.get_num_threads())
             for label, file in files.items()}  # fmt: skip
    times = in_turns({label: (lambda call=call: call(x)) for label, call in calls.items()}, rounds)  # type: ignore
    middle, low, high = ratio(times["fp32"], times["int8"])
    return {"fp32_ms": sorted(times["fp32"])[rounds // 2], "int8_ms": sorted(times["int8"])[rounds // 2],
            "faster": middle, "faster_low": low, "faster_high": high, "threads": torch.get_num_threads(),
            "runtime": runtime}  # fmt: skip


def _keep(made: Path, output: Path) -> None:
    """Move what was made to its place; whole, or not at all."""
    if made.is_file():
        with new_file("-o", output) as place:
            shutil.copyfile(made, place)
        return
    try:
        with written_together(output) as place:
            shutil.copytree(made, place, dirs_exist_ok=True)
    except OSError as error:
        raise PruneError(f"cannot be written: {error.strerror or error}; nothing was left there", f"-o {output}"
                         ) from error  # fmt: skip


def _bytes(place: Path) -> int:
    return place.stat().st_size if place.is_file() else sum(file.stat().st_size for file in place.iterdir())
