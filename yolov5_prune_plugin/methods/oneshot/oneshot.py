"""--prune S: one-shot pruning of a trained model, when a script loads it for use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from torch import nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.amounts import check_kept
from yolov5_prune_plugin.core.pruning.distribution import NAMES
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target, find_targets
from yolov5_prune_plugin.core.pruning.sparsity import Sparsity, measure
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import check_new_file
from yolov5_prune_plugin.methods.oneshot.budget import BudgetOptions, BudgetRun, check_budget
from yolov5_prune_plugin.methods.oneshot.calibration import check_images
from yolov5_prune_plugin.methods.oneshot.flags import BaselineOptions, PruneOptions, WhatOptions
from yolov5_prune_plugin.methods.oneshot.sensitivity import SensitivityOptions, SensitivityRun
from yolov5_prune_plugin.plugin_api.run import Evaluation, Run, Saved
from yolov5_prune_plugin.reporting.amounts_file import read_amounts

if TYPE_CHECKING:
    from yolov5_prune_plugin.reporting.oneshot_report import Record


class OneShot:
    """Prunes by the flags above; the methods come from the plug-ins."""

    def __init__(self, hook: Any) -> None:
        self._methods = methods_of(hook)

    @hookimpl
    def options(self, role: str) -> list[type]:
        """Our flags and those of the methods, in every script that uses a trained model."""
        if role == "train":
            return []
        own = [cls for cls in self._methods.values() if is_dataclass(cls)]
        measuring = [BaselineOptions, BudgetOptions, SensitivityOptions] if role == "validate" else []
        return [PruneOptions, *measuring, *own]

    @hookimpl
    def configure(self, run: Run) -> Optional[object]:
        """Check the flags against each other before anything is loaded."""
        if run.role == "train":
            return None
        options: PruneOptions = run.config(PruneOptions)
        budget: BudgetOptions = run.config(BudgetOptions)
        asked = {"--prune S": options.prune, "--prune-amounts FILE": options.prune_amounts,
                 "--prune-budget POINTS": budget.prune_budget}  # fmt: skip
        asked = {name: value for name, value in asked.items() if value is not None}
        given = [name for cls in self.options(run.role) for name in run.given(cls)]
        if "--prune-budget-step" in given and budget.prune_budget is None:
            raise PruneError("--prune-budget-step needs --prune-budget POINTS")
        measuring = run.given(SensitivityOptions)
        if not asked and not measuring:
            if given:
                raise PruneError(f"{given[0]} needs --prune S, the share of weights to zero, or --prune-amounts FILE")
            return None
        if len(asked) > 1:
            raise PruneError(f"{' and '.join(asked)} each say how much is pruned; leave out all but one")
        if options.prune_amounts and "--prune-distribution" in given:
            raise PruneError("--prune-amounts says what each layer drops; leave out --prune-distribution")
        method = chosen_method(run, self._methods, options.prune_method)
        chosen = type(method)
        if measuring:
            return SensitivityRun(run, method, Granularity.parse(options.prune_granularity), options.prune_seed,
                                  lambda model: find(model, options), {"method": options.prune_method})  # fmt: skip
        check_images(run, method)
        if budget.prune_budget is not None:
            check_budget(budget, options.prune_granularity, run)
        request = request_of(options, chosen)
        if options.prune_save is not None and run.main:  # the others come later, and find what the first has written
            _check_save(options.prune_save, run)
        run.needs_baseline = run.config(BaselineOptions).prune_baseline
        oneshot = OneShotRun(run, options, method, request)
        return oneshot if budget.prune_budget is None else BudgetRun(run, budget, oneshot)


def methods_of(hook: Any) -> dict[str, Any]:
    """The classes that plug-ins offer for --prune-method, by name.

    Raises:
        PruneError: If two have one name.
    """
    methods: dict[str, Any] = {}
    for cls in (cls for classes in reversed(hook.prune_methods()) for cls in classes):
        first = methods.setdefault(cls.name, cls)
        if first is not cls:
            raise PruneError(f"method {cls.name!r} is offered by {first.__module__} and by {cls.__module__}")
    return methods


def prune_by(method: Any, run: Run, model: nn.Module, targets: Sequence[Target], request: Request) -> None:
    """Prune a model in place as a method does it: by looking at images, by itself, or by its scores."""
    if hasattr(method, "calibrate"):
        method.calibrate(run, model, targets)
    if hasattr(method, "prune"):
        method.prune(targets, request)
    else:
        prune_by_scores(targets, method.scores, request)


@dataclass(frozen=True)
class Pruned:
    """A model that was pruned, and what is known of it.

    Attributes:
        model: The model, changed.
        selection: Which of its layers were treated.
        sparsity: Its zeros.
        facts: How it was done, for the report.
    """

    model: nn.Module
    selection: Selection
    sparsity: Sparsity
    facts: dict[str, Any]


class OneShotRun:
    """One-shot pruning taking part in one run."""

    def __init__(self, run: Run, options: PruneOptions, method: Any, request: Request) -> None:
        self.run, self.options, self.method, self.request = run, options, method, request
        self.record: Optional[Record] = None

    @hookimpl
    def model_loaded(self, run: Run, model: nn.Module) -> None:
        """Prune, report, save."""
        pruned = self.prune(model, self.request)
        self.record = self.report(run, pruned)
        self.record.layers()
        if self.options.prune_save is not None and run.main:
            self.record.saved(self.save(run, pruned, self.options.prune_save))

    def prune(self, model: nn.Module, request: Request) -> Pruned:
        """Prune a model in place."""
        options = self.options
        selection = find(model, options)
        try:
            request = request.fitted(selection)
        except PruneError as error:
            raise PruneError(f"--prune-amounts {options.prune_amounts}: {error}") from None
        started = time.perf_counter()
        prune_by(self.method, self.run, model, selection.targets, request)
        seconds = time.perf_counter() - started
        fused = not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        facts = {
            "method": options.prune_method, "distribution": "amounts" if request.amounts else request.distribution,
            "granularity": options.prune_granularity, "requested_sparsity": request.sparsity, "seed": request.seed,
            "pruned_weights": "fused" if fused else "unfused", "seconds": round(seconds, 3),
        }  # fmt: skip
        facts |= getattr(self.method, "facts", {})
        if options.prune_linear:
            facts["linear"] = True
        if request.amounts:
            facts |= {"amounts_file": str(options.prune_amounts), "amounts": dict(request.amounts)}
        sparsity = measure(model, selection)
        check_kept(request.amounts, sparsity, request.granularity)
        return Pruned(model, selection, sparsity, facts)

    def report(self, run: Run, pruned: Pruned, **more: Any) -> Record:
        """The record of a pruned model; nothing is printed or written yet."""
        from yolov5_prune_plugin.reporting.oneshot_report import (
            Record,  # brings rich and pandas: only for a run that prunes
        )

        return Record(run, {**pruned.facts, **more}, pruned.sparsity)

    def save(self, run: Run, pruned: Pruned, file: Path) -> Saved:
        """Write a pruned model as a checkpoint."""
        names = [target.name for target in pruned.selection.targets]
        left_out = ("amounts", "amounts_file", "seconds")  # the same command writes the same file, byte for byte
        facts = {key: value for key, value in pruned.facts.items() if key not in left_out}
        return run.save(pruned.model, names, file, {**facts, "conv_sparsity": pruned.sparsity.conv_sparsity})

    @hookimpl
    def evaluated(self, evaluation: Evaluation, baseline: Optional[Evaluation]) -> None:
        """Report what the script measured."""
        if self.record:
            self.record.evaluated(evaluation, baseline)


def chosen_method(run: Run, methods: Mapping[str, Any], name: str) -> Any:
    """The method of --prune-method, made from its own flags.

    Raises:
        PruneError: If there is none of the name, or flags of another were given.
    """
    if name not in methods:
        raise PruneError(
            f"--prune-method must be one of {', '.join(methods)}, got {name!r}; other methods come with plug-in"
            " packages"
        )
    chosen = methods[name]
    for cls in methods.values():
        if cls is not chosen and is_dataclass(cls) and run.given(cls):
            raise PruneError(f"{run.given(cls)[0]} belongs to --prune-method {cls.name}, not {chosen.name}")
    return run.config(chosen) if is_dataclass(chosen) else chosen()


def request_of(options: WhatOptions, method: Any) -> Request:
    """Of the flags; with --prune-budget the sparsity is still open, and with --prune-amounts until a model is there."""
    file, grain = options.prune_amounts, Granularity.parse(options.prune_granularity)
    known = getattr(method, "distributions", NAMES)
    distribution = options.prune_distribution or ("uniform" if grain.m else known[0])
    if distribution not in known:
        raise PruneError(f"--prune-distribution {distribution} does not go with --prune-method {method.name}, which has"
                         f" {', '.join(known)}")  # fmt: skip
    try:
        amounts = read_amounts(file) if file else {}
    except PruneError as error:
        raise PruneError(f"--prune-amounts {error}") from None
    try:
        return Request(options.prune or 0.0, distribution, grain, options.prune_seed, amounts)
    except PruneError as error:
        asked = f"--prune-amounts {file}" if file else f"--prune {options.prune:g}"
        raise PruneError(f"{asked} --prune-granularity {grain}: {error}") from None


def find(model: nn.Module, options: WhatOptions) -> Selection:
    """The targets by the flags; an error names the flag."""
    grain = Granularity.parse(options.prune_granularity)
    try:
        return find_targets(model, grain, options.prune_include, options.prune_exclude, options.prune_linear)
    except PruneError as error:
        # core names its parameters include and exclude; the flags are called after them
        flag_of = "--prune-" if str(error).startswith(("include: ", "exclude: ")) else "--prune: "
        raise PruneError(f"{flag_of}{error}") from None


def _check_save(file: Path, run: Run) -> None:
    check_new_file("--prune-save", file)
    if file.suffix != ".pt":
        raise PruneError(f"--prune-save {file}: a YOLOv5 checkpoint ends in .pt")
    if len(run.weights) > 1:
        raise PruneError(f"--prune-save writes one model, but --weights names {len(run.weights)} (an ensemble)")
