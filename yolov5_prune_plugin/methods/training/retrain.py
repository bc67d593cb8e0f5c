"""train.py --prune S: prune, then train with the mask kept. --keep-zeros: train a sparse model with its zeros kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Optional

from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.modes import evaluating
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target, find_targets
from yolov5_prune_plugin.core.training.gradual import Gradual, rounds
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot.calibration import check_images
from yolov5_prune_plugin.methods.oneshot.flags import WhatOptions
from yolov5_prune_plugin.methods.oneshot.oneshot import chosen_method, find, prune_by, request_of
from yolov5_prune_plugin.options import checked, flag, whole
from yolov5_prune_plugin.plugin_api.run import Run, Training

FEW = 0.001  # a model with a smaller share of zeros is dense


@dataclass
class RetrainOptions(WhatOptions):
    """Prune and retrain (yolov5-prune-plugin)."""

    prune_iterations: int = flag(
        1, "rounds of pruning and training of equal length; each round keeps the same share of what is left (default"
        " 1: all at the start)", type=checked(whole), metavar="N")  # fmt: skip


@dataclass
class KeepOptions:
    """Fine-tuning a sparse model (yolov5-prune-plugin)."""

    keep_zeros: bool = flag(False, "keep the zeros that the Conv2d and Linear weights have at the start")


class Retrain:
    """What --prune S does in a training."""

    flag: ClassVar[str] = "--prune"

    def __init__(self, run: Run, methods: Mapping[str, Any]) -> None:
        """Check the flags.

        Raises:
            PruneError: If they don't go together.
        """
        options: RetrainOptions = run.config(RetrainOptions)
        self.run, self.options, self._methods = run, options, methods
        if options.prune is not None and options.prune_amounts:
            raise PruneError("--prune S and --prune-amounts FILE each say how much is pruned; leave out one")
        if options.prune_amounts and "--prune-distribution" in run.given(RetrainOptions):
            raise PruneError("--prune-amounts says what each layer drops; leave out --prune-distribution")
        self.method = chosen_method(run, methods, options.prune_method)
        check_images(run, self.method)
        if options.prune_iterations > 1 and (options.prune_amounts or Granularity.parse(options.prune_granularity).m):
            fixed = "--prune-amounts" if options.prune_amounts else f"--prune-granularity {options.prune_granularity}"
            raise PruneError(f"--prune-iterations {options.prune_iterations}: {fixed} leaves no smaller amount for the"
                             " first rounds; it goes with --prune S of weights or channels")  # fmt: skip
        self.request = request_of(options, type(self.method))

    def facts(self) -> dict[str, object]:
        """For the report."""
        options = self.options
        return {"method": f"prune and retrain: {options.prune_method}", "requested_sparsity": options.prune,
                "distribution": "amounts" if options.prune_amounts else self.request.distribution,
                "granularity": options.prune_granularity, "iterations": options.prune_iterations,
                "seed": options.prune_seed, **getattr(self.method, "facts", {})}  # fmt: skip

    def find(self, model: nn.Module) -> Selection:
        """The weights by --prune-include and --prune-exclude."""
        return find(model, self.options)

    def rule(self, selection: Selection, training: Training) -> tuple[Gradual, Optional[Mapping[str, Tensor]]]:
        """The rule, and the masks to start from."""
        try:
            request = self.request.fitted(selection)
        except PruneError as error:
            raise PruneError(f"--prune-amounts {self.options.prune_amounts}: {error}") from None
        first, plan = rounds(self.options.prune_iterations, request.sparsity)
        scores, prune = getattr(self.method, "scores", None), getattr(self.method, "prune", None)
        if hasattr(self.method, "calibrate"):
            scores, prune = None, partial(self._calibrated, training.model)
        return Gradual(selection.targets, scores, request, plan, first, None if scores else prune), None

    def _calibrated(self, model: nn.Module, targets: Sequence[Target], request: Request) -> None:
        """One round of a method that looks at images, by a fresh one: what another has measured is of another model."""
        self.method = chosen_method(self.run, self._methods, self.options.prune_method)
        with evaluating(model):
            prune_by(self.method, self.run, model, targets, request)


class Keep:
    """What --keep-zeros does in a training."""

    flag: ClassVar[str] = "--keep-zeros"

    def __init__(self, run: Run) -> None:
        self.weights = run.weights or [str(getattr(run.arguments, "model", ""))]

    def facts(self) -> dict[str, object]:
        """For the report."""
        return {"method": "zeros kept"}

    def find(self, model: nn.Module) -> Selection:
        """All of them; those of Linear layers too if one of these is sparse."""
        sparse = [m for m in model.modules() if isinstance(m, nn.Linear) and _zeros(m.weight) >= FEW * m.weight.numel()]
        return find_targets(model, Granularity("weight"), linear=bool(sparse))

    def rule(self, selection: Selection, training: Training) -> tuple[Rule, Optional[Mapping[str, Tensor]]]:
        """Masks that stay, from the zeros there are."""
        masks = {target.name: target.weight.detach() != 0 for target in selection.targets}
        weights = sum(mask.numel() for mask in masks.values())
        zeros = sum(_zeros(mask) for mask in masks.values())
        if not training.resumed and zeros < FEW * weights:  # rounding to fp16 makes some in any checkpoint
            raise PruneError(
                f"--keep-zeros: only {zeros} of the {weights:,} Conv2d weights of {self.weights[0]} are zero, so it is"
                " not a sparse model; give one, or prune with --prune S, --gmp or --dns"
            )
        return Rule(), masks


def _zeros(tensor: Tensor) -> int:
    return tensor.numel() - int(tensor.count_nonzero())
