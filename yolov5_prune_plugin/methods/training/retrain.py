"""train.py --prune S: prune, then train with the mask kept. --keep-zeros: train a sparse model with its zeros kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.outputs.modes import evaluating
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target, find_targets
from yolov5_prune_plugin.core.pruning.sparsity import zeros_in
from yolov5_prune_plugin.core.pruning.target import SpeedTarget
from yolov5_prune_plugin.core.training.gradual import Gradual, rounds
from yolov5_prune_plugin.core.training.ranks import of_the_first
from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.methods.oneshot.calibration import CalibrationOptions, check_images
from yolov5_prune_plugin.methods.oneshot.flags import WhatOptions, check_how_much, chosen_method, find, request_of
from yolov5_prune_plugin.methods.oneshot.obs import Obs
from yolov5_prune_plugin.methods.oneshot.target import chosen_amounts
from yolov5_prune_plugin.options import flag, whole_from
from yolov5_prune_plugin.plugin_api.methods import Method, TrainingMethod, own_options
from yolov5_prune_plugin.plugin_api.run import Run, Training

FEW = 0.001  # a model with a smaller share of zeros is dense


@dataclass
class RetrainOptions(WhatOptions):
    """Prune and retrain (yolov5-prune-plugin)."""

    prune_iterations: int = flag(
        1, "rounds of pruning and training of equal length; each round keeps the same share of what is left (default"
        " 1: all at the start)", type=whole_from(1), metavar="N")  # fmt: skip


@dataclass
class KeepOptions:
    """Fine-tuning a sparse model (yolov5-prune-plugin)."""

    keep_zeros: bool = flag(False, "keep the zeros that the Conv2d and Linear weights have at the start")


class Retrain(TrainingMethod):
    """Pruning before a training, and training with the mask kept."""

    flag: ClassVar[str] = "--prune"
    options_class: ClassVar[type] = RetrainOptions
    shared_options: ClassVar[tuple[type, ...]] = (CalibrationOptions,)
    how_to_ask: ClassVar[str] = "--prune S"
    options: RetrainOptions

    def __init__(self, run: Run, methods: Mapping[str, type[Method]]) -> None:
        super().__init__(run, methods)
        options = self.options
        check_how_much(run, options, {"--prune S": options.prune, "--prune-amounts FILE": options.prune_amounts,
                                      "--prune-target flops=S": options.prune_target})  # fmt: skip
        self.method = chosen_method(run, methods, options.prune_method)
        if options.prune_target_losses != "sensitivity":
            check_images(run, self.method)
        pattern = bool(Granularity.parse(options.prune_granularity).m)
        if options.prune_iterations > 1 and (options.prune_amounts or pattern):
            fixed = f"--prune-granularity {options.prune_granularity}" if pattern else "--prune-amounts"
            raise PruneError(f"--prune-iterations {options.prune_iterations}: {fixed} leaves no smaller amount for the"
                             " first rounds; it goes with --prune S of weights or channels")  # fmt: skip
        self.request = request_of(options, type(self.method))
        self._may_order = True

    @classmethod
    def option_classes(cls, methods: Mapping[str, type[Method]]) -> list[type]:
        """Flags of its methods too."""
        return [*super().option_classes(methods), *own_options(methods)]

    @classmethod
    def asked_for(cls, run: Run) -> bool:
        """Whether it is said how much to prune."""
        options: RetrainOptions = run.config(RetrainOptions)
        return any(one is not None for one in (options.prune, options.prune_amounts, options.prune_target))

    def facts(self) -> dict[str, object]:
        """Say how it is done, for the report."""
        options = self.options
        how: dict[str, object] = {"requested_sparsity": options.prune, "distribution": self.request.distribution}
        if options.prune_amounts:
            how["distribution"] = "amounts"
        elif options.prune_target is not None:
            how = {
                "target": {options.prune_target.what: options.prune_target.left},
                "distribution": options.prune_target.what,
            }
        return {"method": f"prune and retrain: {options.prune_method}", **how,
                "granularity": options.prune_granularity, "iterations": options.prune_iterations,
                "seed": options.prune_seed, **self.method.facts}  # fmt: skip

    def find(self, model: nn.Module) -> Selection:
        """Find the weights that --prune-include and --prune-exclude leave."""
        return find(model, self.options)

    def rule(self, selection: Selection, training: Training) -> Gradual:
        """Prune in rounds, the first before all training."""
        request = self.request
        self._may_order = not training.resumed
        if self.options.prune_target is not None and not training.resumed:
            request = replace(request, amounts=self._amounts(self.options.prune_target, training, selection))
        with named(f"--prune-amounts {self.options.prune_amounts}"):
            request = request.fitted(selection)
        first, plan = rounds(self.options.prune_iterations, request.sparsity)
        method = self.method
        if method.uses_images():
            calibrated = partial(self._calibrated, training.model)
            return Gradual(selection.targets, None, request, plan, first, calibrated)
        if method.has_scores():
            return Gradual(selection.targets, method.scores, request, plan, first)
        return Gradual(selection.targets, None, request, plan, first, method.prune)

    def _amounts(self, wanted: SpeedTarget, training: Training, selection: Selection) -> dict[str, float]:
        """Amounts by layer for --prune-target; the first process chooses for all."""
        options, model, run = self.options, training.model, self.run

        def choose() -> dict[str, float]:
            method = chosen_method(run, self.methods, options.prune_method)
            with named(f"--prune-target {wanted}"), evaluating(model):
                method.calibrate(run, model, selection.targets)
                return chosen_amounts(wanted, options.prune_target_losses, run, model, selection, method, self.request)[
                    0
                ]

        found: dict[str, float] = of_the_first(choose)
        return found

    def _calibrated(self, model: nn.Module, targets: Sequence[Target], request: Request) -> None:
        """One round of a method that looks at images, by a fresh one: what another has measured is of another model."""
        self.method = chosen_method(self.run, self.methods, self.options.prune_method)
        if isinstance(self.method, Obs) and not self._may_order:
            self.method.prune_permute = "off"  # momentum and the average have the order of the first round
        self._may_order = False
        with evaluating(model):
            self.method.calibrate(self.run, model, targets)
            self.method.prune(targets, request)


class Keep(TrainingMethod):
    """Training of a sparse model with its zeros kept."""

    flag: ClassVar[str] = "--keep-zeros"
    options_class: ClassVar[type] = KeepOptions

    def facts(self) -> dict[str, object]:
        """Say how it is done, for the report."""
        return {"method": "zeros kept"}

    def find(self, model: nn.Module) -> Selection:
        """Find all Conv2d weights, and those of Linear layers if one of these is sparse."""
        sparse = [
            m for m in model.modules() if isinstance(m, nn.Linear) and zeros_in(m.weight) >= FEW * m.weight.numel()
        ]
        return find_targets(model, Granularity("weight"), linear=bool(sparse))

    def first_masks(self, selection: Selection, training: Training) -> Mapping[str, Tensor]:
        """Mask the zeros there are."""
        masks = {target.name: target.weight.detach() != 0 for target in selection.targets}
        weights = sum(mask.numel() for mask in masks.values())
        zeros = sum(zeros_in(mask) for mask in masks.values())
        weights_file = (self.run.weights or [str(getattr(self.run.arguments, "model", ""))])[0]
        if not training.resumed and zeros < FEW * weights:  # rounding to fp16 makes some in any checkpoint
            raise PruneError(
                f"--keep-zeros: only {zeros} of the {weights:,} Conv2d weights of {weights_file} are zero, so it is"
                " not a sparse model; give one, or prune with --prune S, --gmp or --dns"
            )
        return masks


@hookimpl
def training_methods() -> list[type]:
    """Offer ``train.py --prune S`` and ``--keep-zeros``."""
    return [Retrain, Keep]
