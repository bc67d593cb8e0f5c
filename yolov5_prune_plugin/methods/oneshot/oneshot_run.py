"""One-shot pruning in one run of a script: prune, report, save."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from torch import nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.outputs.drift import Drift
from yolov5_prune_plugin.core.pruning.amounts import check_kept
from yolov5_prune_plugin.core.pruning.multiplications import uses_at
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Selection
from yolov5_prune_plugin.core.pruning.sparsity import Sparsity, measure, zeros_by_name
from yolov5_prune_plugin.core.pruning.target import SpeedTarget
from yolov5_prune_plugin.errors import named
from yolov5_prune_plugin.methods.oneshot.flags import PruneOptions, find
from yolov5_prune_plugin.methods.oneshot.target import chosen_amounts
from yolov5_prune_plugin.plugin_api.methods import Method
from yolov5_prune_plugin.plugin_api.run import Evaluation, Run, Saved

if TYPE_CHECKING:
    from yolov5_prune_plugin.core.runtime.costs import Costs
    from yolov5_prune_plugin.reporting.oneshot_report import Record


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

    def __init__(self, run: Run, options: PruneOptions, method: Method, request: Request) -> None:
        self.run, self.options, self.method, self.request = run, options, method, request
        self.record: Optional[Record] = None
        self._times: list[Costs] = []  # of the model's layers, once measured
        self.drift: Optional[Drift] = None  # of the outputs, where the model as given is not measured

    @hookimpl
    def model_loaded(self, run: Run, model: nn.Module) -> None:
        """Prune, report, save."""
        watched = run.role in ("validate", "use") and not run.needs_baseline and run.main
        watched &= not getattr(run.options, "sparse_runtime", False)  # its graph has no place for who looks on
        before = copy.deepcopy(model) if watched else None
        pruned = self.prune(model, self.request, self.options.prune_target)
        self.record = self.report(run, pruned)
        self.record.layers()
        if self.options.prune_save is not None and run.main:
            self.record.saved(self.save(run, pruned, self.options.prune_save))
        self.drift = Drift(before, model) if before is not None else None

    def prune(self, model: nn.Module, request: Request, wanted: Optional[SpeedTarget] = None) -> Pruned:
        """Prune a model in place.

        Args:
            model: As the script loaded it.
            request: How much, spread how, in what grain.
            wanted: Instead of how much, what is left of the multiplications or the time.
        """
        options = self.options
        selection = find(model, options)
        with named(f"--prune-amounts {options.prune_amounts}"):
            request = request.fitted(selection)
        before = zeros_by_name(model)
        started = time.perf_counter()
        self.method.calibrate(self.run, model, selection.targets)
        target: dict[str, Any] = {}
        if wanted is not None:
            with named(f"--prune-target {wanted}"):
                amounts, measured = chosen_amounts(wanted, options.prune_target_losses, self.run, model, selection,
                                                   self.method, request, self._times)  # fmt: skip
            target = {wanted.what: wanted.left, "losses": options.prune_target_losses or "the method's default"}
            target |= measured
            request = replace(request, amounts=amounts).fitted(selection)
        self.method.prune(selection.targets, request)
        seconds = time.perf_counter() - started
        fused = not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        how = wanted.what if wanted else "amounts" if request.amounts else request.distribution
        facts = {
            "method": options.prune_method, "distribution": how,
            "granularity": options.prune_granularity, "requested_sparsity": request.sparsity, "seed": request.seed,
            "pruned_weights": "fused" if fused else "unfused", "seconds": round(seconds, 3),
        }  # fmt: skip
        facts |= self.method.facts
        if options.prune_linear:
            facts["linear"] = True
        if target:
            facts["target"] = target
        if request.amounts:
            file = {"amounts_file": str(options.prune_amounts)} if options.prune_amounts else {}
            facts |= {**file, "amounts": dict(request.amounts)}
        size = self.run.image_size(model)
        facts["imgsz"] = list(size) if size else None
        uses = uses_at(model, *size) if size else {}
        sparsity = measure(
            model, selection, uses, [request.granularity.rows] if request.granularity.rows else [], before
        )
        check_kept(request.amounts, sparsity, request.granularity)
        return Pruned(model, selection, sparsity, facts)

    def report(self, run: Run, pruned: Pruned, **more: Any) -> Record:
        """Make the record of a pruned model; nothing is printed or written yet.

        Args:
            run: The run.
            pruned: The model.
            more: Further entries of report.json.
        """
        from yolov5_prune_plugin.reporting.oneshot_report import (
            Record,  # brings rich and pandas: only for a run that prunes
        )

        return Record(run, {**pruned.facts, **more}, pruned.sparsity)

    def save(self, run: Run, pruned: Pruned, file: Path) -> Saved:
        """Write a pruned model as a checkpoint.

        Args:
            run: The run.
            pruned: The model.
            file: Where to; must not exist.
        """
        names = [target.name for target in pruned.selection.targets]
        left_out = ("amounts", "amounts_file", "seconds")  # the same command writes the same file, byte for byte
        facts = {key: value for key, value in pruned.facts.items() if key not in left_out}
        return run.save(pruned.model, names, file, {**facts, "conv_sparsity": pruned.sparsity.conv_sparsity})

    @hookimpl
    def evaluated(self, evaluation: Evaluation, baseline: Optional[Evaluation]) -> None:
        """Report what the script measured."""
        if self.record:
            self._note_drift()
            self.record.evaluated(evaluation, baseline)

    @hookimpl
    def finished(self) -> None:
        """Say where the report is, in a script that measures nothing."""
        if self.record:
            self._note_drift()
            self.record.finished()

    def _note_drift(self) -> None:
        if self.record and self.drift and self.drift.value is not None:
            self.record.moved(self.drift.value)
