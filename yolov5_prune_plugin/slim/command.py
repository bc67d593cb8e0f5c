"""``yolov5-prune slim``: a checkpoint, smaller by whole channels, validated before and after."""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from yolov5_prune_plugin.errors import NoResultError, PruneError
from yolov5_prune_plugin.files import check_new_file, written_whole
from yolov5_prune_plugin.options import build
from yolov5_prune_plugin.slim.flags import SlimOptions, ValidationOptions, parse_target

COLLAPSED = 0.1  # of the dense model's figure: less is called a collapse
TRIES, MILDER = 4, 0.75  # backing off removes so much of what was removed before, so often
TRACED = 2  # strides of the image that is traced


def slim_file(options: argparse.Namespace) -> int:
    """Do what the command line says.

    Returns:
        0; 1 if ``--keep-map`` is missed by every target that was tried (nothing is written then).

    Raises:
        PruneError: If something given is wrong; nothing is written then.
        NoResultError: If a validation failed.
    """
    what, target = parse_target(options.target)
    config: SlimOptions = build(options, SlimOptions)
    checks: ValidationOptions = build(options, ValidationOptions)
    validated = bool(options.data) and not checks.no_val
    if checks.keep_map and not validated:
        raise PruneError("--keep-map validates, and so needs --data, and no --no-val")
    needs = _needing_images(config)
    if needs and not options.data:
        raise PruneError(f"{needs} looks at images: give --data, a data-set YAML with a train split")
    check_new_file("-o", options.output)

    import torch

    from yolov5_prune_plugin.core.coupled import tracer
    from yolov5_prune_plugin.core.images import Images
    from yolov5_prune_plugin.core.slim import Slimming, slim
    from yolov5_prune_plugin.slim.show import Report
    from yolov5_prune_plugin.slim.validate import validate
    from yolov5_prune_plugin.yolov5.slim_file import facts_of, save_slim
    from yolov5_prune_plugin.yolov5.upstream import as_used, find_upstream, stride_of, task_of

    tracer()
    upstream = find_upstream(options.repo)
    checkpoint, dense = upstream.load(options.weights)
    task, stride = task_of(dense), stride_of(dense)
    size = options.imgsz or (224 if task == "classify/" else 640)
    if task != "classify/" and size % stride:
        raise PruneError(f"--imgsz {size}: must be a multiple of {stride}, the model's largest stride")
    report = Report(options.weights, options.output, what, config)
    before = facts_of(checkpoint)
    if before:
        report.say(f"{options.weights} is slim already ({before.get('target')}); shares are of what it has now, not of"
                   f" the model that it was made from")  # fmt: skip
    images = None
    if options.data and (needs or not config.slim_no_repair):
        drawn = upstream.calibration(task, dense, options.data, size, config.slim_calib, "train", config.slim_seed)
        images = Images(drawn.batches(1))
    figure, dense_value = "", 0.0
    if validated:
        figure, dense_value = validate(upstream, task, options.weights, options.data, size, checks.batch_size)
        report.measured("dense", figure, dense_value)
    example, sized = torch.rand(1, 3, TRACED * stride, TRACED * stride), torch.rand(1, 3, size, size)
    with tempfile.TemporaryDirectory(prefix="yolov5-prune-") as folder:
        for number in range(TRIES):
            model = copy.deepcopy(dense)
            wanted = Slimming(what, target, config.slim_importance, config.slim_allocation, config.slim_round,
                              config.slim_floor, config.slim_steps, not config.slim_no_repair,
                              config.slim_seed)  # fmt: skip
            with torch.no_grad():
                done = slim(model, wanted, example, sized, images, _bar, as_used)
            file = Path(folder) / f"{number}.pt"
            facts = {"target": f"{what}={target:g}", "importance": wanted.importance, "allocation": wanted.allocation,
                     "before": done.before, "after": done.after, "imgsz": size}  # fmt: skip
            if before:
                facts["of"] = before
            save_slim(file, checkpoint, model, example, facts, done.layers)
            value = None
            if validated:
                value = validate(upstream, task, file, options.data, size, checks.batch_size)[1]
            if value is None or not checks.keep_map or value >= checks.keep_map * dense_value:
                break
            milder = 1 - (1 - target) * MILDER
            more = f"; trying {what}={milder:.3g}" if number + 1 < TRIES else ""
            report.say(f"{figure} fell from {dense_value:.4f} to {value:.4f} at {what}={target:g}, less than --keep-map"
                       f" {checks.keep_map:g} of it{more}")  # fmt: skip
            target = milder
        else:
            raise NoResultError(f"--keep-map {checks.keep_map:g} is missed at every target down to what was tried last;"
                                " nothing was written. Fine-tune after cutting instead (train.py --slim), or take a"
                                " lower --keep-map")  # fmt: skip
        _keep(file, options.output)
    report.done(done, options.output, figure, dense_value, value)
    if value is not None and value < COLLAPSED * dense_value:
        report.say(f"{figure} has collapsed ({dense_value:.4f} -> {value:.4f}): this file is a start for fine-tuning,"
                   " not for use. --keep-map SHARE backs off to a milder target")  # fmt: skip
    return 0


def _needing_images(config: SlimOptions) -> Optional[str]:
    if config.slim_importance in ("taylor", "second"):
        return f"--slim-importance {config.slim_importance}"
    return "--slim-allocation sensitivity" if config.slim_allocation == "sensitivity" else None


def _keep(file: Path, output: Path) -> None:
    try:
        with written_whole(output, overwrite=False) as temporary:
            shutil.copyfile(file, temporary)
    except OSError as error:
        raise PruneError(f"-o {output}: cannot be written: {error}") from error


@contextmanager
def _bar(what: str, total: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
