"""``yolov5-prune slim``: a checkpoint, smaller by whole channels, validated before and after."""

from __future__ import annotations

import argparse
import copy
import shutil
import statistics
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from yolov5_prune_plugin.errors import NoResultError, PruneError, named
from yolov5_prune_plugin.files import new_file, temporary_folder
from yolov5_prune_plugin.methods.slim.flags import SlimOptions, ValidationOptions, slim_errors
from yolov5_prune_plugin.options import build
from yolov5_prune_plugin.reporting.console import bar
from yolov5_prune_plugin.reporting.labels import label
from yolov5_prune_plugin.reporting.next_steps import ours
from yolov5_prune_plugin.reporting.run_folder import check_place

COLLAPSED = 0.1  # of the dense model's figure: less is called a collapse
TRIES, MILDER = 4, 0.75  # backing off removes so much of what was removed before, so often
ROUNDS = 11  # of timing
TRACED = 2  # strides of the image that is traced


def slim_file(options: argparse.Namespace) -> int:
    """Write a checkpoint with fewer channels; validate it before and after.

    Returns:
        0; 1 if ``--keep-map`` is missed by every target that was tried (nothing is written then).

    Raises:
        PruneError: If something given is wrong; nothing is written then.
        NoResultError: If a validation failed.
    """
    what, target = options.target
    config: SlimOptions = build(options, SlimOptions)
    checks: ValidationOptions = build(options, ValidationOptions)
    validated = bool(options.data) and not checks.no_val
    if checks.keep_map and not validated:
        raise PruneError("--keep-map validates, and so needs --data, and no --no-val")
    needs = config.looks_at_images()
    if needs and not options.data:
        raise PruneError(f"{needs} looks at images: give --data, a data-set YAML with a train split")
    check_place("-o", options.output, options.output.with_name(f"{options.output.stem}_slim"))
    if options.yaml:
        check_place("--yaml", options.yaml)
        if config.slim_round % 8:
            raise PruneError(f"--yaml: upstream's yaml has multiples of 8 only; --slim-round is {config.slim_round}")

    import torch

    from yolov5_prune_plugin.commands.validate import check_data, train_command, validate
    from yolov5_prune_plugin.core.channels.dependency_graph import tracer
    from yolov5_prune_plugin.core.channels.slim import slim
    from yolov5_prune_plugin.core.outputs.images import Images
    from yolov5_prune_plugin.core.pruning.granularity import Granularity
    from yolov5_prune_plugin.core.pruning.multiplications import uses_at
    from yolov5_prune_plugin.core.pruning.parameters import find_targets
    from yolov5_prune_plugin.core.pruning.sparsity import measure
    from yolov5_prune_plugin.core.runtime.timing import in_turns
    from yolov5_prune_plugin.reporting.layers import zeros_line
    from yolov5_prune_plugin.reporting.slim_report import Report, Written
    from yolov5_prune_plugin.yolov5.checkout.upstream import as_used, find_upstream, stride_of, task_of
    from yolov5_prune_plugin.yolov5.checkpoints.slim_file import (
        bytes_of,
        facts_of,
        note_widths,
        save_slim,
        widths_of,
        widths_of_layers,
    )
    from yolov5_prune_plugin.yolov5.checkpoints.stock_yaml import stock_model, write_yaml

    tracer()
    upstream = find_upstream(options.repo)
    if options.data:
        check_data(upstream, options.data)
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
    about = (
        f"{options.weights.name}{f' on {Path(options.data).name}' if options.data else ''}: --target {options.target}"
    )
    facts = {"weights": str(options.weights), "what": what, "options": asdict(config)}
    report = Report(options.output.with_name(f"{options.output.stem}_slim"), facts, about, checks.verbose)
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
        report.measured("given", figure, dense_value)
    example, sized = torch.rand(1, 3, TRACED * stride, TRACED * stride), torch.rand(1, 3, size, size)
    plan = None  # by the first try
    with temporary_folder() as folder:
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
            stock, wordless = None, ""
            if options.yaml:
                try:
                    stock = stock_model(model, example)
                except PruneError as error:
                    wordless = str(error)
            with named(file="-o"):
                save_slim(file, checkpoint, stock or model, example, facts, {} if stock else done.layers)
            value = None
            if validated:
                value = validate(upstream, task, file, options.data, size, checks.batch_size)[1]
            if value is None or not checks.keep_map or value >= checks.keep_map * dense_value:
                break
            milder = 1 - (1 - target) * MILDER
            more = f"; trying {what}={milder:.3g}" if number + 1 < TRIES else ""
            report.say(f"{label(figure)} fell from {dense_value:.4f} to {value:.4f} at {what}={target:g}, less than"
                       f" --keep-map {checks.keep_map:g} of it{more}")  # fmt: skip
            target = milder
        else:
            raise NoResultError(f"--keep-map {checks.keep_map:g} is missed at every target down to what was tried last;"
                                " nothing was written. Fine-tune after cutting instead (train.py --slim), or take a"
                                " lower --keep-map")  # fmt: skip
        with new_file("-o", options.output) as place:
            shutil.copyfile(file, place)
    with bar("timing", ROUNDS) as advance, torch.no_grad():
        runs = {"before": partial(as_used(dense), sized), "after": partial(as_used(model), sized)}
        times = in_turns(runs, ROUNDS, progress=advance)
    ms = statistics.median(times["before"]), statistics.median(times["after"])
    selection = find_targets(model, Granularity("weight"))
    with torch.no_grad():
        report.say(zeros_line(measure(model, selection, uses_at(model, size, size)), (size, size)))
    report.done(done, Written(options.output, bytes_of(checkpoint, dense), ms, figure, dense_value, value))
    if value is not None and value < COLLAPSED * dense_value:
        report.say(f"{label(figure)} has collapsed ({dense_value:.4f} -> {value:.4f}): this file is a start for"
                   " fine-tuning, not for use. --keep-map SHARE backs off to a milder target")  # fmt: skip
    if stock:
        write_yaml(options.yaml, stock, options.output)
        report.say(f"{options.yaml} describes it: stock train.py takes --weights {options.output} as it is, and --cfg"
                   f" {options.yaml}")  # fmt: skip
    data, repo = options.data or "DATA", ["--repo", options.repo] if options.repo else []
    measured = ["--data", data] if options.data else []
    small, both = options.output.with_suffix(".y5z"), (options.weights, options.output)
    options.result = report.content
    report.end({
        "train what is left": train_command(upstream, task, options.output, data),
        "how fast it is, in several runtimes": ours("bench", *both, "--imgsz", size, *measured, *repo),
        "a smaller file": ours("compress", options.output, "-o", small, *measured, *repo),
    })  # fmt: skip
    if wordless:
        raise NoResultError(f"--yaml {options.yaml}: not written: {wordless}; {options.output} is written as without"
                            " --yaml")  # fmt: skip
    return 0
