"""``yolov5-prune compress``, ``decompress``, ``inspect``: parse, call, print."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov5_prune_plugin.commands.compress.flags import CompressOptions, Size
from yolov5_prune_plugin.commands.compress.lost import Lost, drift_of
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import new_file, shown
from yolov5_prune_plugin.options import build
from yolov5_prune_plugin.reporting.figure import save_png
from yolov5_prune_plugin.reporting.labels import label
from yolov5_prune_plugin.reporting.next_steps import ours, say_next
from yolov5_prune_plugin.reporting.run_folder import check_place, csv_of, json_of, write_report

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from yolov5_prune_plugin.commands.compress.search import Judge
    from yolov5_prune_plugin.core.pruning.sparsity import Sparsity
    from yolov5_prune_plugin.yolov5.checkout.upstream import Upstream

SUFFIX = ".y5z"
DENSE = 0.9  # a model with a larger share of weights that are not zero is called dense


def compress_file(options: argparse.Namespace) -> int:
    """Write a checkpoint as a .y5z file, read it again and compare.

    Raises:
        PruneError: If something given is wrong, or the file does not come back as the same model; nothing is left.
    """
    config: CompressOptions = build(options, CompressOptions)
    if options.output.suffix != SUFFIX:
        raise PruneError(f"-o {options.output}: must end in {SUFFIX}, by which the scripts know it")
    check_place("-o", options.output, _report_of(options.output))

    from yolov5_prune_plugin.commands.compress.cluster import cluster_all
    from yolov5_prune_plugin.commands.validate import check_data
    from yolov5_prune_plugin.core.coding import container
    from yolov5_prune_plugin.reporting.console import plain_console
    from yolov5_prune_plugin.reporting.layers import zeros_line
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream, task_of
    from yolov5_prune_plugin.yolov5.checkpoints import y5z

    upstream = find_upstream(options.repo)
    if config.data:
        check_data(upstream, config.data)
    checkpoint, model = upstream.load(options.weights)
    try:
        content = y5z.describe(model, checkpoint, upstream.package)
        state = y5z.stored_state(model, config.fp32)
    except PruneError as error:
        hint = "; --fp32 keeps them" if error.field == "fp32" else ""
        raise PruneError(f"{options.weights}: {error.message}{hint}") from None
    names = y5z.weights_of(model)
    others = {name: tensor for name, tensor in state.items() if name not in names}
    content["source"] = _sizes_of(y5z.as_checkpoint(content, model, half=True))
    console = plain_console()

    with new_file("-o", options.output) as place:  # gets its name once it was read again

        def write(weights: dict[str, Tensor]) -> int:
            with console.status("packing"):
                return container.write(place, content, weights, others, config.coder)

        judge = None
        weights = {name: state[name] for name in names}
        if config.lossless:
            content["sharing"] = {"lossless": True}
            write(weights)
        else:
            judge = _judge(config, options, upstream, model, place) if config.data else None
            searching = judge if config.budget is not None else None
            weights = cluster_all(weights, config, _wanted(config.size, content), content, write, console, searching)
        opened = dataclasses.replace(container.read(place), file=options.output)
        again = y5z.model_in(opened, upstream.package)
        y5z.check_alike(model, again, {**state, **weights})
        lost = None if config.lossless else _lost(config, judge, upstream, options.weights, again)
        zeros, size = _zeros(again, config.imgsz or (224 if task_of(model) == "classify/" else 640))
    console.print(zeros_line(zeros, (size, size)), soft_wrap=True)
    _report(options, config, lost, console, upstream, task_of(model))
    return 0


def decompress_file(options: argparse.Namespace) -> int:
    """Write a .y5z file as an ordinary checkpoint.

    Raises:
        PruneError: If something given is wrong; nothing is written then.
    """
    check_place("-o", options.output)
    from yolov5_prune_plugin.commands.validate import script_command, train_command
    from yolov5_prune_plugin.reporting.console import plain_console
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream, task_of
    from yolov5_prune_plugin.yolov5.checkpoints import y5z

    upstream = find_upstream(options.repo)
    opened, model = y5z.open_model(options.file, upstream.package)
    with new_file("-o", options.output) as place:
        size = y5z.save_checkpoint(place, opened.content, model)
    print(f"{options.output}: {size:,} bytes, of {opened.size:,}; an ordinary checkpoint")
    options.result = {"file": str(options.output), "bytes": size, "of": opened.size}
    task = task_of(model)
    say_next(plain_console(), {
        "measure it": script_command(upstream, f"{task}val.py", "--weights", options.output, "--data", "DATA"),
        "train on from it, zeros kept": train_command(upstream, task, options.output, "DATA", "--keep-zeros"),
    })  # fmt: skip
    return 0


def inspect_file(options: argparse.Namespace) -> int:
    """Print where the bytes go; with ``--html`` and ``--png`` write pages and pictures of it.

    With ``--imgsz`` the model is built, and zeros are counted by layer in multiplications too.

    Raises:
        PruneError: If the file is damaged, or one that is asked for can't be written.
    """
    for name in ("html", "png"):
        file = getattr(options, name)
        if file:
            check_place(f"--{name}", file)
            if file.suffix.lower() != f".{name}":
                raise PruneError(f"--{name} {file}: must end in .{name}")
    from yolov5_prune_plugin.core.coding import container
    from yolov5_prune_plugin.core.coding.sizes import sizes
    from yolov5_prune_plugin.reporting import compress_report as show
    from yolov5_prune_plugin.reporting.console import plain_console
    from yolov5_prune_plugin.reporting.run_folder import write_new
    from yolov5_prune_plugin.yolov5.checkpoints.header import check_content

    opened = container.read(options.file)
    check_content(opened)
    found = sizes(opened)
    console, title = plain_console(), shown(options.file)
    console.print(show.table(found, title))
    show.say_ratios(console, found, opened.content)
    if options.imgsz:
        from yolov5_prune_plugin.reporting.layers import layers_table, zeros_line
        from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream
        from yolov5_prune_plugin.yolov5.checkpoints import y5z

        _, model = y5z.open_model(options.file, find_upstream(options.repo).package)
        zeros, size = _zeros(model, options.imgsz)
        console.print(layers_table(zeros, f"{title}: zeros, at {size}x{size}"))
        console.print(zeros_line(zeros, (size, size)), soft_wrap=True)
    wanted = {}
    if options.png:
        wanted["--png"] = options.png, show.png_of(found, title)
    if options.html:
        wanted["--html"] = options.html, show.html_of(found, opened.content, title)
    write_new(wanted)
    for place in (options.png, options.html):
        if place:
            console.print(f"report: {place}", soft_wrap=True)
    options.result = {"file": str(options.file), **show.content(found, opened.content)}
    steps = {
        "an ordinary checkpoint again": ours(
            "decompress", options.file, "-o", options.file.with_name(f"{options.file.stem}-unpacked.pt")
        )
    }
    if not options.html:
        steps["the same as a page"] = ours("inspect", options.file, "--html", options.file.with_suffix(".html"))
    say_next(console, steps)
    return 0


def _report_of(file: Path) -> Path:
    return file.with_name(f"{file.stem}_compress")


def _zeros(model: nn.Module, size: int) -> tuple[Sparsity, int]:
    """Zeros of a model, and the image size, up to its stride, that multiplications are counted at."""
    from yolov5_prune_plugin.core.pruning.granularity import Granularity
    from yolov5_prune_plugin.core.pruning.multiplications import uses_at
    from yolov5_prune_plugin.core.pruning.parameters import find_targets
    from yolov5_prune_plugin.core.pruning.sparsity import measure
    from yolov5_prune_plugin.yolov5.checkout.upstream import stride_of

    stride = stride_of(model)
    side = -(-size // stride) * stride
    model = model.float()
    return measure(model, find_targets(model, Granularity("weight")), uses_at(model, side, side)), side


def _sizes_of(save: Callable[[Any], None]) -> dict[str, int]:
    """Bytes of the checkpoint as upstream has it at the end of a training, in fp16, and of a zip of it."""
    plain, zipped = io.BytesIO(), io.BytesIO()
    save(plain)
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.pt", plain.getvalue())
    return {"fp16_bytes": len(plain.getvalue()), "zip_bytes": len(zipped.getvalue())}


def _judge(
    config: CompressOptions, options: argparse.Namespace, upstream: Upstream, model: nn.Module, place: Path
) -> Judge:
    """Measures the checkpoint, and then the file, by upstream's val.py."""
    from yolov5_prune_plugin.commands.compress.search import Judge
    from yolov5_prune_plugin.commands.validate import validate
    from yolov5_prune_plugin.yolov5.checkout.upstream import task_of

    task = task_of(model)
    size = config.imgsz or (224 if task == "classify/" else 640)

    known: dict[str, tuple[str, float]] = {}

    def measure(file: Path) -> tuple[str, float]:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest not in known:
            known[digest] = validate(upstream, task, file, config.data, size, config.batch_size)
        return known[digest]

    figure, value = measure(options.weights)
    print(f"{options.weights}: {label(figure)} {value:.4f}", flush=True)
    floor = value - config.budget / 100 if config.budget is not None else 0.0
    return Judge(figure, value, floor, lambda: measure(place)[1])


def _lost(
    config: CompressOptions, judge: Judge | None, upstream: Upstream, weights: Path, again: nn.Module
) -> Lost:  # fmt: skip
    """What the file that was written lost; of a search the last measurement was of that very file or is made now."""
    if judge:
        return Lost(judge.figure, judge.reference, judge.measure(), floor=judge.floor if config.budget else None)
    return Lost(moved=drift_of(upstream.load(weights)[1], again))


def _wanted(size: Size | None, content: dict[str, Any]) -> int:
    if size is None:
        return 0
    return size.bytes or int(content["source"]["fp16_bytes"] / size.ratio)


def _report(
    options: argparse.Namespace, config: CompressOptions, lost: Lost | None, console: Console, upstream: Upstream,
    task: str,
) -> None:  # fmt: skip
    """Say what became of it, write the report beside the file, and offer what comes next."""
    from yolov5_prune_plugin.commands.validate import script_command, train_command
    from yolov5_prune_plugin.core.coding import container
    from yolov5_prune_plugin.core.coding.sizes import sizes
    from yolov5_prune_plugin.reporting import compress_report as show

    file, opened = options.output, container.read(options.output)
    found = sizes(opened)
    console.print(f"{file}: read again, and the same model", soft_wrap=True)
    show.say_ratios(console, found, opened.content, otherwise="")
    data = config.data or "DATA"
    steps = {}
    if lost:
        console.print(f"{file}: {show.bits_of(found):.2f} bits a weight, {found.total:,} bytes; {lost}", soft_wrap=True)
    if lost and lost.too_much:
        console.print("WARNING: that is too much for a file that is used as it is", style="yellow", soft_wrap=True)
        sparse = options.weights.with_name(f"{options.weights.stem}-sparse.pt")
        if found.kept > DENSE * found.weights:
            how = ("--data", data, "--prune", 0.5, "--prune-method", "obs", "--prune-save", sparse)
            steps["prune first: zeros take next to no room"] = script_command(
                upstream, f"{task}val.py", "--weights", options.weights, *how
            )
        steps["or train the shared values, then compress with the same bits"] = train_command(
            upstream, task, options.weights, data, "--share-bits", 4
        )
    else:
        steps["where the bytes are"] = ours("inspect", file)
    steps["use it, as any weights"] = script_command(upstream, f"{task}val.py", "--weights", file, "--data", data)
    folder = _report_of(file)
    content = {**show.content(found, opened.content), "weights": str(options.weights), "file": str(file),
               "data": config.data or None, "lost": lost.content() if lost else None}  # fmt: skip
    on = f" on {Path(config.data).name}" if config.data else ""
    title = f"{options.weights.name}{on}: {show.bits_of(found):.2f} bits a weight"
    write_report(folder, {
        "report.json": json_of(content),
        "layers.csv": csv_of(show.frame(found)),
        "layers.png": lambda place: save_png(show.draw(found, title), place),
    })  # fmt: skip
    options.result = content
    console.print(f"report: {folder}", soft_wrap=True)
    say_next(console, steps)
