"""``yolov5-prune slim``: a checkpoint, smaller by whole channels, validated before and after."""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from yolov5_prune_plugin.errors import NoResultError, PruneError, named
from yolov5_prune_plugin.files import check_new_file, written_whole
from yolov5_prune_plugin.methods.slim.flags import SlimOptions, ValidationOptions, parse_target, slim_errors
from yolov5_prune_plugin.options import build
from yolov5_prune_plugin.reporting.console import bar

COLLAPSED = 0.1  # of the dense model's figure: less is called a collapse
TRIES, MILDER = 4, 0.75  # backing off removes so much of what was removed before, so often
TRACED = 2  # strides of the image that is traced


def slim_file(options: argparse.Namespace) -> int:
    """Write a checkpoint with fewer channels; validate it before and after.

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
    needs = config.looks_at_images()
    if needs and not options.data:
        raise PruneError(f"{needs} looks at images: give --data, a data-set YAML with a train split")
    check_new_file("-o", options.output)

    import torch

    from yolov5_prune_plugin.commands.validate import validate
    from yolov5_prune_plugin.core.channels.dependency_graph import tracer
    from yolov5_prune_plugin.core.channels.slim import slim
    from yolov5_prune_plugin.core.outputs.images import Images
    from yolov5_prune_plugin.core.pruning.granularity import Granularity
    from yolov5_prune_plugin.core.pruning.multiplications import uses_at
    from yolov5_prune_plugin.core.pruning.parameters import find_targets
    from yolov5_prune_plugin.core.pruning.sparsity import measure
    from yolov5_prune_plugin.reporting.layers import zeros_line
    from yolov5_prune_plugin.reporting.slim_report import Report, Written
    from yolov5_prune_plugin.yolov5.checkout.upstream import as_used, find_upstream, stride_of, task_of
    from yolov5_prune_plugin.yolov5.checkpoints.slim_file import (
        facts_of,
        note_widths,
        save_slim,
        widths_of,
        widths_of_layers,
    )

    tracer()
    upstream = find_upstream(options.repo)
    checkpoint, dense = upstream.load(options.weights)
    task, stride = task_of(dense), stride_of(dense)
    size = options.imgsz or (224 if task == "classify/" else 640)
    if task != "classify/" and size % stride:
        raise PruneError(f"--imgsz {size}: must be a multiple of {stride}, the model's largest stride")
    images = None
    if options.data and config.uses_images(trained=False):
        drawn = upstream.calibration(task, dense, options.data, size, config.slim_calib, "train", config.slim_seed)
        images = Images(drawn.batches(1))
    config = config.resolved(images is not None, trained=False)
    report = Report(options.output.with_name(f"{options.output.stem}_slim"),
                    {"weights": str(options.weights), "what": what, "options": asdict(config)})  # fmt: skip
    before = facts_of(checkpoint)
    if not widths_of(dense) and isinstance(getattr(dense, "yaml", None), dict):
        with suppress(Exception):  # a fork's classes: then train.py says what cannot be kept
            note_widths(dense, widths_of_layers(dense))  # of a model that something else narrowed
    if before or widths_of(dense):
        how = f" ({before['target']})" if "target" in before else ""
        report.say(f"{options.weights} is slim already{how}; shares are of what it has now, not of what it was made of")
    if not options.data:
        report.say(
            "WARNING: without --data nothing is repaired and nothing is validated: such a model finds next to nothing"
            f" until it is trained. Give --data, or: yolov5-prune run train.py --weights {options.output} --data DATA"
        )
    figure, dense_value = "", 0.0
    if validated:
        figure, dense_value = validate(upstream, task, options.weights, options.data, size, checks.batch_size)
        report.measured("dense", figure, dense_value)
    example, sized = torch.rand(1, 3, TRACED * stride, TRACED * stride), torch.rand(1, 3, size, size)
    plan = None  # by the first try
    with tempfile.TemporaryDirectory(prefix="yolov5-prune-") as folder:
        for number in range(TRIES):
            model = copy.deepcopy(dense)
            wanted = config.slim_config(what, target)
            with slim_errors("--target"), torch.no_grad():
                done = slim(model, wanted, example, sized, images, bar, as_used, plan)
            plan = done.plan
            file = Path(folder) / f"{number}.pt"
            facts = {"target": f"{what}={target:g}", "importance": wanted.importance, "allocation": wanted.allocation,
                     "before": done.before, "after": done.after, "imgsz": size}  # fmt: skip
            if before:
                facts["of"] = before
            with named(file="-o"):
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
    selection = find_targets(model, Granularity("weight"))
    with torch.no_grad():
        report.say(zeros_line(measure(model, selection, uses_at(model, size, size)), (size, size)))
    report.done(done, Written(options.output, figure, dense_value, value))
    if value is not None and value < COLLAPSED * dense_value:
        report.say(f"{figure} has collapsed ({dense_value:.4f} -> {value:.4f}): this file is a start for fine-tuning,"
                   " not for use. --keep-map SHARE backs off to a milder target")  # fmt: skip
    return 0


def _keep(file: Path, output: Path) -> None:
    try:
        with written_whole(output, overwrite=False) as temporary:
            shutil.copyfile(file, temporary)
    except OSError as error:
        raise PruneError(f"-o {output}: cannot be written: {error}") from error
