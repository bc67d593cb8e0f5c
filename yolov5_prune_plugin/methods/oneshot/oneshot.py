"""--prune S: one-shot pruning of a trained model, when a script loads it for use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot.budget import BudgetOptions, BudgetRun, check_budget
from yolov5_prune_plugin.methods.oneshot.calibration import check_images
from yolov5_prune_plugin.methods.oneshot.flags import (
    BaselineOptions,
    PruneOptions,
    check_how_much,
    chosen_method,
    find,
    request_of,
)
from yolov5_prune_plugin.methods.oneshot.oneshot_run import OneShotRun
from yolov5_prune_plugin.methods.oneshot.sensitivity import SensitivityOptions, SensitivityRun
from yolov5_prune_plugin.plugin_api.methods import oneshot_methods, own_options
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.reporting.run_folder import check_place


def make_plugin(hook: Any) -> OneShot:
    """Make what answers the events: it asks the other plug-ins for their methods."""
    return OneShot(hook)


class OneShot:
    """Offers the flags of one-shot pruning, and starts what they ask for."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook

    @hookimpl
    def options(self, role: str) -> list[type]:
        """Our flags and those of the methods, in every script that uses a trained model."""
        if role == "train":
            return []
        own = own_options(oneshot_methods(self._hook))
        measuring = [BaselineOptions, BudgetOptions, SensitivityOptions] if role == "validate" else []
        return [PruneOptions, *measuring, *own]

    @hookimpl
    def configure(self, run: Run) -> Optional[object]:
        """Check the flags against each other before anything is loaded."""
        if run.role == "train":
            return None
        options: PruneOptions = run.config(PruneOptions)
        budget: BudgetOptions = run.config(BudgetOptions)
        asked = {
            "--prune S": options.prune,
            "--prune-amounts FILE": options.prune_amounts,
            "--prune-target flops=S": options.prune_target,
            "--prune-budget POINTS": budget.prune_budget,
        }
        wanted = any(value is not None for value in asked.values())
        given = [name for cls in self.options(run.role) for name in run.given(cls)]
        for name in ("--prune-budget-step", "--prune-budget-of"):
            if name in given and budget.prune_budget is None:
                raise PruneError(f"{name} needs --prune-budget POINTS")
        measuring = run.given(SensitivityOptions)
        if not wanted and not measuring:
            if given:
                raise PruneError(f"{given[0]} needs --prune S, the share of weights to zero, --prune-amounts FILE or"
                                 " --prune-target flops=S")  # fmt: skip
            return None
        check_how_much(run, options, asked)
        method = chosen_method(run, oneshot_methods(self._hook), options.prune_method)
        chosen = type(method)
        if measuring:
            return SensitivityRun(run, method, Granularity.parse(options.prune_granularity), options.prune_seed,
                                  lambda model: find(model, options), {"method": options.prune_method})  # fmt: skip
        if options.prune_target_losses != "sensitivity":
            check_images(run, method)
        if budget.prune_budget is not None:
            check_budget(budget, options.prune_granularity, run)
        request = request_of(options, chosen)
        if options.prune_save is not None and run.main:  # the others come later, and find what the first has written
            _check_save(options.prune_save, run)
        run.needs_baseline = run.config(BaselineOptions).prune_baseline
        oneshot = OneShotRun(run, options, method, request)
        return oneshot if budget.prune_budget is None else BudgetRun(run, budget, oneshot)


def _check_save(file: Path, run: Run) -> None:
    check_place("--prune-save", file)
    if file.suffix != ".pt":
        raise PruneError(f"--prune-save {file}: a YOLOv5 checkpoint ends in .pt")
    if len(run.weights) > 1:
        raise PruneError(f"--prune-save writes one model, but --weights names {len(run.weights)} (an ensemble)")
