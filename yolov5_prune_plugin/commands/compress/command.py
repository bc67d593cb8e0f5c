"""``yolov5-prune compress``, ``decompress``, ``inspect``: parse, call, print."""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov5_prune_plugin.commands.compress.flags import CompressOptions, Size
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import check_new_file
from yolov5_prune_plugin.options import build

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov5_prune_plugin.commands.compress.search import Judge
    from yolov5_prune_plugin.core.pruning.sparsity import Sparsity
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
    from yolov5_prune_plugin.core.coding import container
    from yolov5_prune_plugin.reporting.console import plain_console
    from yolov5_prune_plugin.reporting.layers import zeros_line
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream, task_of
    from yolov5_prune_plugin.yolov5.checkpoints import y5z

    upstream = find_upstream(options.repo)
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

    def write(weights: dict[str, Tensor]) -> int:
        with console.status("packing"):
            return container.write(options.output, content, weights, others, config.coder)

    try:
        weights = {name: state[name] for name in names}
        if config.lossless:
            content["sharing"] = {"lossless": True}
            write(weights)
        else:
            judge = _judge(config, options, upstream, model) if config.budget is not None else None
            weights = cluster_all(weights, config, _wanted(config.size, content), content, write, console, judge)
        _, again = y5z.open_model(options.output, upstream.package)
        y5z.check_alike(model, again, {**state, **weights})
    except BaseException as error:
        options.output.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise PruneError(
                f"-o {options.output}: cannot be written: {error.strerror}; nothing was left there"
            ) from error
        raise
    _say(options.output, console)
    size = config.imgsz or (224 if task_of(model) == "classify/" else 640)
    zeros, size = _zeros(again, size)
    console.print(zeros_line(zeros, (size, size)), soft_wrap=True)
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
    try:
        size = y5z.save_checkpoint(options.output, opened.content, model)
    except OSError as error:
        raise PruneError(f"-o {options.output}: cannot be written: {error.strerror}; nothing was left there") from error
    print(f"{options.output}: {size:,} bytes, of {opened.size:,}; an ordinary checkpoint")
    return 0


def inspect_file(options: argparse.Namespace) -> int:
    """Print where the bytes go; with ``--html`` and ``--png`` write pages and pictures of it.

    With ``--imgsz`` the model is built, and zeros are counted by layer in multiplications too.

    Raises:
        PruneError: If the file is damaged, or one that is asked for can't be written.
    """
    for name in ("html", "png"):
        if getattr(options, name):
            check_new_file(f"--{name}", getattr(options, name))
    from yolov5_prune_plugin.core.coding import container
    from yolov5_prune_plugin.core.coding.sizes import sizes
    from yolov5_prune_plugin.reporting import compress_report as show
    from yolov5_prune_plugin.reporting.console import plain_console

    opened = container.read(options.file)
    found = sizes(opened)
    console = plain_console(130)
    console.print(show.table(found, str(options.file)))
    show.say_ratios(console, found, opened.content)
    if options.imgsz:
        from yolov5_prune_plugin.reporting.layers import layers_table, zeros_line
        from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream
        from yolov5_prune_plugin.yolov5.checkpoints import y5z

        _, model = y5z.open_model(options.file, find_upstream(options.repo).package)
        zeros, size = _zeros(model, options.imgsz)
        console.print(layers_table(zeros, f"{options.file}: zeros, at {size}x{size}"))
        console.print(zeros_line(zeros, (size, size)), soft_wrap=True)
    if options.png:
        show.write_png(options.png, found, str(options.file))
    if options.html:
        show.write_html(options.html, found, opened.content, str(options.file))
    return 0


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


def _judge(config: CompressOptions, options: argparse.Namespace, upstream: Upstream, model: nn.Module) -> Judge:
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
    return Judge(figure, value, value - config.budget / 100, lambda: measure(options.output)[1])


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
