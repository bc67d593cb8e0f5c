"""train.py --slim: channels are removed before the first step."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Optional

import torch
from torch import nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.channels.widths import narrow
from yolov5_prune_plugin.core.outputs.modes import evaluating
from yolov5_prune_plugin.core.training.ranks import of_the_first
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.slim.flags import SlimOptions, parse_target, slim_errors
from yolov5_prune_plugin.options import checked, flag
from yolov5_prune_plugin.plugin_api.run import Run, Training

TRACED = 2  # strides of the image that is traced


def _target(text: str) -> str:
    what, share = parse_target(text if "=" in text else f"flops={text}")
    if what == "latency":
        raise PruneError("must be a share of FLOPs such as 0.5, flops=S or params=S; latency is measured by"
                         f" yolov5-prune slim --target {text}")  # fmt: skip
    return f"{what}={share:g}"


@dataclass
class SlimTrainingOptions:
    """Channel pruning before a training (yolov5-prune-plugin)."""

    slim: Optional[str] = flag(
        None, "remove channels of the model as it is made, and train what is left: the share of FLOPs that stays, in"
        " (0, 1), such as 0.5; or flops=S or params=S", type=checked(_target), metavar="S")  # fmt: skip


@hookimpl
def options(role: str) -> list[type]:
    """In every train.py."""
    return [SlimTrainingOptions, SlimOptions] if role == "train" else []


@hookimpl
def configure(run: Run) -> Optional[object]:
    """Check the flags before anything is loaded.

    Raises:
        PruneError: If they don't go together, or torch-pruning is missing.
    """
    if run.role != "train":
        return None
    target = run.config(SlimTrainingOptions).slim
    lonely = run.given(SlimOptions)
    if target is None:
        if lonely:
            raise PruneError(f"{lonely[0]} needs --slim S")
        return None
    if getattr(run.arguments, "weights", None) == "":
        raise PruneError(f"--slim {target}: there are no trained weights to judge channels by; give --weights FILE")
    from yolov5_prune_plugin.core.channels.dependency_graph import tracer

    tracer()
    return SlimTraining(run, target)


class SlimTraining:
    """Takes part in one run of a train.py."""

    figures: tuple[str, ...] = ()

    def __init__(self, run: Run, target: str) -> None:
        self.run, self.target = run, target

    @hookimpl(tryfirst=True)
    def training_begins(self, training: Training) -> None:
        """Cut the model before masks come, unless that was done when the run began that is resumed."""
        if training.resumed:
            return
        training.widths.update(of_the_first(lambda: self._slim(training.model)))
        if not self.run.main:
            narrow(training.model, training.widths)  # its weights come from the first process, as all weights do

    def _slim(self, model: nn.Module) -> dict[str, dict[str, int]]:
        """Cut a model, and say what was done; returns the widths of its layers."""
        from yolov5_prune_plugin.core.channels.slim import slim
        from yolov5_prune_plugin.core.outputs.images import Images
        from yolov5_prune_plugin.reporting.console import bar
        from yolov5_prune_plugin.reporting.labels import subject
        from yolov5_prune_plugin.reporting.slim_report import Report

        options: SlimOptions = self.run.config(SlimOptions)
        what, target = parse_target(self.target)
        images = None
        if options.uses_images(trained=True):
            drawn = self.run.calibration(options.slim_calib, "train", options.slim_seed)
            images = Images(drawn.batches(1))
        options = options.resolved(images is not None, trained=True)
        facts = {"weights": self.run.weights, "what": self.target, "options": asdict(options)}
        whole = bool(getattr(self.run.options, "prune_verbose", False))
        report = Report(_folder(self.run), facts, f"{subject(self.run)}: --slim {self.target}", whole)
        device = next(model.parameters()).device
        stride = max(32, math.ceil(float(torch.as_tensor(getattr(model, "stride", 32)).max())))
        size = math.ceil(int(self.run.arguments.imgsz) / stride) * stride
        shown = partial(torch.rand, device=device)
        with slim_errors("--slim"), evaluating(model), torch.no_grad():
            done = slim(model, options.slim_config(what, target), shown(1, 3, TRACED * stride, TRACED * stride),
                        shown(1, 3, size, size), images, bar, copy.deepcopy)  # fmt: skip
        report.done(done)
        report.end({})
        return done.layers


def _folder(run: Run) -> Path:
    assert run.folder is not None
    return run.folder / "slim"
