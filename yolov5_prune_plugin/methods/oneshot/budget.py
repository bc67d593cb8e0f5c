"""--prune-budget POINTS: the sparsest model within so many points of the dense one, by bisection."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from torch import nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.budget import ASSUMES, Bisection, Trial
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.target import FLOPS, LATENCY, SpeedTarget
from yolov5_prune_plugin.errors import NoResultError, PruneError
from yolov5_prune_plugin.files import new_file
from yolov5_prune_plugin.methods.oneshot.oneshot_run import OneShotRun, Pruned
from yolov5_prune_plugin.options import checked, flag, map_points
from yolov5_prune_plugin.plugin_api.run import Evaluation, Measurement, Run

if TYPE_CHECKING:
    from yolov5_prune_plugin.reporting.oneshot_report import Record


def _step(text: str) -> float:
    try:
        return Bisection(float(text)).step
    except ValueError:
        raise PruneError(f"step must be a number above 0 and up to 0.5, such as 0.01; got {text!r}") from None


@dataclass
class BudgetOptions:
    """Search for the sparsest model (yolov5-prune-plugin)."""

    prune_budget: Optional[float] = flag(
        None, "instead of --prune S: the sparsest model whose mAP50-95 (segmenters: that of the masks; classifiers:"
        " top1) is at most this many points (hundredths) below the dense one's; saved and measured again",
        type=checked(map_points), metavar="POINTS")  # fmt: skip
    prune_budget_step: float = flag(
        0.01, "distance of the sparsities that are tried (default 0.01)", type=checked(_step), metavar="STEP"
    )
    prune_budget_of: str = flag(
        "weights", "what is to be zero as much as can be: weights (default); flops: the fewest multiplications, or"
        " latency: the least time in the sparse runtime, with amounts by layer chosen as for --prune-target",
        choices=("weights", FLOPS, LATENCY))  # fmt: skip


def check_budget(options: BudgetOptions, granularity: str, run: Run) -> None:
    """Check what goes with a budget.

    Args:
        options: Its flags.
        granularity: Of --prune-granularity.
        run: The run of a val.py.

    Raises:
        PruneError: If something does not.
    """
    asked = f"--prune-budget {options.prune_budget:g}"
    task = getattr(run.arguments, "task", "val")
    if Granularity.parse(granularity).m:
        raise PruneError(f"{asked} --prune-granularity {granularity}: the pattern sets the sparsity, nothing is left to"
                         " search for; give --prune S, or the granularity weight or channel")  # fmt: skip
    if options.prune_budget_of != "weights" and hasattr(run.options, "prune_distribution"):
        raise PruneError(f"{asked} --prune-budget-of {options.prune_budget_of} chooses what each layer drops; leave out"
                         " --prune-distribution")  # fmt: skip
    if task not in ("train", "val", "test"):
        raise PruneError(f"{asked} --task {task}: it measures on one split; give --task train, val or test")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise PruneError(f"{asked}: the search runs in one process, not in {os.environ['WORLD_SIZE']}")
    if len(run.weights) > 1:
        raise PruneError(f"{asked}: saves one model, but --weights names {len(run.weights)} (an ensemble)")
    if not run.figure:
        raise PruneError(f"{asked}: {run.script} returns no figure; name its results and figure with --seams FILE")


class BudgetRun:
    """A search taking part in one run of a val.py."""

    def __init__(self, run: Run, options: BudgetOptions, oneshot: OneShotRun) -> None:
        from yolov5_prune_plugin.reporting.budget_report import (
            BudgetRecord,  # brings rich and pandas: only for a search
        )

        self.run, self.oneshot = run, oneshot
        self.asked = f"--prune-budget {options.prune_budget:g}"
        self.what = options.prune_budget_of
        self.search = Bisection(options.prune_budget_step)
        self.trials = BudgetRecord(run, options.prune_budget or 0.0, self.search.step)
        self.amount = 0.0
        self.pruned: Optional[Pruned] = None  # the model that is measured
        self.kept: Optional[tuple[float, Pruned]] = None  # the best so far
        self.record: Optional[Record] = None

    @hookimpl
    def model_loaded(self, model: nn.Module) -> None:
        """Prune by the amount that is tried."""
        if self.what != "weights":
            wanted = SpeedTarget(self.what, 1 - self.amount)
            self.pruned = self.oneshot.prune(model, self.oneshot.request, wanted)
        else:
            self.pruned = self.oneshot.prune(model, replace(self.oneshot.request, sparsity=self.amount))

    @hookimpl
    def measurements(self) -> Generator[Measurement, Evaluation, None]:
        """The dense model, trials, and what was found once more."""
        return self._measurements()

    @hookimpl
    def evaluated(self, evaluation: Evaluation, baseline: Optional[Evaluation]) -> None:
        """Report the dense model and the one that was saved."""
        if self.record:
            self.record.evaluated(evaluation, baseline)

    def _measurements(self) -> Generator[Measurement, Evaluation, None]:
        try:
            yield from self._dense()
            while True:
                while self.search.next is not None:
                    yield from self._try(self.search.next)
                if not self.search.best:
                    raise NoResultError(
                        f"{self.asked}: even {self._flag(self.search.step)} is outside, so nothing was saved; allow"
                        " more points, or try another --prune-method or --prune-distribution, such as global"
                    )
                if not self.kept or self.kept[0] != self.search.best:  # what was kept did not stand its confirmation
                    yield from self._try(self.search.best)
                elif (yield from self._confirm(*self.kept)):
                    return
        except KeyboardInterrupt:
            self.trials.write("interrupted")
            best = (
                f"the sparsest inside is {self._flag(self.search.best)}" if self.search.best else "none is inside yet"
            )
            self.trials.say(f"interrupted: what was measured stays in {self.run.folder}/budget.json; {best}")
            raise SystemExit(130) from None
        except NoResultError:
            self.trials.write("failed")
            raise

    def _dense(self) -> Generator[Measurement, Evaluation, None]:
        started = time.perf_counter()
        evaluation = yield Measurement("baseline", changed=False, coco=True)
        score = self._score(evaluation)
        floor = self.trials.floor = score - self.trials.points / 100
        if not floor > 0:
            raise PruneError(f"{self.asked}: {self.trials.figure} of the model as given is {score:.4f}, so any model is"
                             f" inside; give less than {100 * score:.4g}")  # fmt: skip
        self.trials.add(Trial(0.0, 0.0, score, True, evaluation.batch_size, time.perf_counter() - started, "dense"))
        self.trials.say(f"as given: {self.trials.figure} {score:.4f}, so {floor:.4f} and more is inside; {ASSUMES}")

    def _try(self, amount: float) -> Generator[Measurement, Evaluation, None]:
        self.amount, started = amount, time.perf_counter()
        evaluation = yield Measurement(f"trials/{amount:g}")
        assert self.pruned is not None
        inside = self._add(evaluation, amount, self.pruned, started, "trial")
        self.search.tell(amount, inside)
        if inside and amount == self.search.best:
            self.kept = amount, self.pruned
        last, after = self.trials.trials[-1].score, self.search.next
        self.trials.say(
            f"{self._flag(amount)}: {self.trials.figure} {last:.4f} ({last - self.trials.trials[0].score:+.4f}),"
            f" {'inside' if inside else 'outside'}; " + (f"next is {after:g}" if after else "no step is left between")
        )

    def _confirm(self, amount: float, pruned: Pruned) -> Generator[Measurement, Evaluation, bool]:
        assert self.run.folder is not None
        file = self.oneshot.options.prune_save or _unused(self.run.folder / "model.pt")
        try:
            with new_file("--prune-save", file) as place:  # what gets its name is confirmed
                saved = self.oneshot.save(self.run, pruned, place)
                started = time.perf_counter()
                evaluation = yield Measurement(weights=place, changed=False, coco=True)
                inside = self._add(evaluation, amount, pruned, started, "confirmation")
                score, dense = self.trials.trials[-1].score, self.trials.trials[0].score
                said = (f"{self._flag(amount)}, saved and loaded again: {self.trials.figure} {score:.4f}"
                        f" ({score - dense:+.4f})")  # fmt: skip
                if not inside:
                    raise _OutsideError
        except _OutsideError:
            self.search.tell(amount, False)
            self.trials.say(f"{said}, outside; not kept")
            return False
        saved = replace(saved, file=file)
        self.trials.say(f"{said}, inside; found" + ("" if self.trials.monotone else f". But {ASSUMES}; here one was"))
        self.trials.found = {"amount": amount, "conv_sparsity": pruned.sparsity.conv_sparsity,
                             "multiplication_sparsity": pruned.sparsity.multiplication_sparsity, "score": score,
                             "file": str(file)}  # fmt: skip
        self.trials.write("found")
        self.record = self.oneshot.report(self.run, pruned, budget=self.trials.content("found"))
        self.record.layers()
        self.record.saved(saved)
        return True

    def _flag(self, amount: float) -> str:
        """What prunes so much, as a command line has it."""
        if self.what == "weights":
            return f"--prune {amount:g}"
        return f"--prune-target {SpeedTarget(self.what, 1 - amount)}"

    def _add(self, evaluation: Evaluation, amount: float, pruned: Pruned, started: float, kind: str) -> bool:
        score, seconds = self._score(evaluation), time.perf_counter() - started
        inside = score >= self.trials.floor - 1e-9  # false for NaN
        sparsity = pruned.sparsity.multiplication_sparsity if self.what != "weights" else pruned.sparsity.conv_sparsity
        self.trials.add(Trial(amount, sparsity, score, inside, evaluation.batch_size, seconds, kind))
        return inside

    def _score(self, evaluation: Evaluation) -> float:
        if evaluation.failed:
            raise NoResultError(f"{self.asked}: no measurement: {evaluation.failed}")
        return evaluation.figures[self.run.figure]


class _OutsideError(Exception):
    """What was saved is not good enough."""


def _unused(file: Path) -> Path:
    """The name itself, or the first of model-2.pt, model-3.pt, ... that does not exist."""
    number = 2
    while file.exists():
        file = file.with_name(f"model-{number}.pt")
        number += 1
    return file
