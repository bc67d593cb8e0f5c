"""``yolov5-prune compress``, ``decompress``, ``inspect``: parse, call, print."""

from __future__ import annotations

import argparse
import dataclasses
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov5_prune_plugin.commands.compress.flags import CompressOptions, Size
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import check_new_file, new_file, shown
from yolov5_prune_plugin.options import build

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov5_prune_plugin.commands.compress.search import Judge
    from yolov5_prune_plugin.yolov5.checkout.upstream import Upstream

SUFFIX = ".y5z"


def compress_file(options: argparse.Namespace) -> int:
    """Write a checkpoint as a .y5z file, read it again and compare.

    Raises:
        PruneError: If something given is wrong, or the file does not come back as the same model; nothing is left.
    """
    config: CompressOptions = build(options, CompressOptions)
    if options.output.suffix != SUFFIX:
        raise PruneError(f"-o {options.output}: must end in {SUFFIX}, by which the scripts know it")
    check_new_file("-o", options.output)

    from yolov5_prune_plugin.commands.compress.cluster import cluster_all
    from yolov5_prune_plugin.commands.validate import check_data
    from yolov5_prune_plugin.core.coding import container
    from yolov5_prune_plugin.reporting.console import plain_console
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream
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

        weights = {name: state[name] for name in names}
        if config.lossless:
            content["sharing"] = {"lossless": True}
            write(weights)
        else:
            judge = _judge(config, options, upstream, model, place) if config.budget is not None else None
            weights = cluster_all(weights, config, _wanted(config.size, content), content, write, console, judge)
        opened = dataclasses.replace(container.read(place), file=options.output)
        y5z.check_alike(model, y5z.model_in(opened, upstream.package), {**state, **weights})
    _say(options.output, console)
    return 0


def decompress_file(options: argparse.Namespace) -> int:
    """Write a .y5z file as an ordinary checkpoint.

    Raises:
        PruneError: If something given is wrong; nothing is written then.
    """
    check_new_file("-o", options.output)
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream
    from yolov5_prune_plugin.yolov5.checkpoints import y5z

    upstream = find_upstream(options.repo)
    opened, model = y5z.open_model(options.file, upstream.package)
    with new_file("-o", options.output) as place:
        size = y5z.save_checkpoint(place, opened.content, model)
    print(f"{options.output}: {size:,} bytes, of {opened.size:,}; an ordinary checkpoint")
    return 0


def inspect_file(options: argparse.Namespace) -> int:
    """Print where the bytes go; with ``--html`` and ``--png`` write pages and pictures of it.

    Raises:
        PruneError: If the file is damaged, or one that is asked for can't be written.
    """
    for name in ("html", "png"):
        file = getattr(options, name)
        if file:
            check_new_file(f"--{name}", file)
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
    console, title = plain_console(130), shown(options.file)
    console.print(show.table(found, title))
    show.say_ratios(console, found, opened.content)
    wanted = {}
    if options.png:
        wanted["--png"] = options.png, show.png_of(found, title)
    if options.html:
        wanted["--html"] = options.html, show.html_of(found, opened.content, title)
    write_new(wanted)
    return 0


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

    def measure(file: Path) -> tuple[str, float]:
        return validate(upstream, task, file, config.data, size, config.batch_size)

    figure, value = measure(options.weights)
    assert config.budget is not None
    print(f"{options.weights}: {figure} {value:.4f}", flush=True)
    return Judge(figure, value, value - config.budget / 100, lambda: measure(place)[1])


def _wanted(size: Size | None, content: dict[str, Any]) -> int:
    if size is None:
        return 0
    return size.bytes or int(content["source"]["fp16_bytes"] / size.ratio)


def _say(file: Path, console: Any) -> None:
    from yolov5_prune_plugin.core.coding import container
    from yolov5_prune_plugin.core.coding.sizes import sizes
    from yolov5_prune_plugin.reporting import compress_report as show

    opened = container.read(file)
    console.print(f"{file}: read again, and the same model", soft_wrap=True)
    show.say_ratios(console, sizes(opened), opened.content)
