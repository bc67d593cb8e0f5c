"""--prune-sensitivity: how much the model suffers when one layer alone is pruned; nothing stays pruned."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch
import yaml
from torch import nn

from yolov5_prune_plugin import __version__, hookimpl
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot.calibration import CalibrationOptions
from yolov5_prune_plugin.options import checked, flag, without_flags
from yolov5_prune_plugin.plugin_api.methods import Method
from yolov5_prune_plugin.plugin_api.run import Run

if TYPE_CHECKING:
    from yolov5_prune_plugin.core.pruning.sensitivity import Sensitivity

AMOUNTS = (0.3, 0.5, 0.7, 0.9)
IMAGES = 16  # unless --prune-calib says otherwise: every layer and amount costs a pass over them
USELESS = ("prune_save", "prune_baseline", "prune_distribution", "prune_amounts", "prune_target", "prune_target_losses",
           "prune_budget", "prune_budget_step", "prune_budget_of")  # fmt: skip
OVERALL = 0.5  # of the suggested amounts, unless --prune says otherwise


def _amounts(text: str) -> tuple[float, ...]:
    try:
        amounts = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PruneError(f"must be shares between 0 and 1 with commas, such as 0.3,0.5,0.7; got {text!r}") from None
    wrong = [amount for amount in amounts if not 0 < amount < 1]
    if wrong:
        raise PruneError(f"every amount must be between 0 and 1, got {wrong[0]:g}")
    for left, right in zip(amounts, amounts[1:]):
        if left >= right:
            raise PruneError(f"amounts must increase, got {right:g} after {left:g}")
    return amounts


@dataclass
class SensitivityOptions:
    """Sensitivity of the layers (yolov5-prune-plugin)."""

    prune_sensitivity: Optional[tuple[float, ...]] = flag(
        None, "prune each layer alone to each of these shares (default 0.3,0.5,0.7,0.9), measure how far the model's"
        " outputs move on a few calibration images, and suggest amounts per layer for an overall --prune S (default"
        " 0.5); the model is then validated dense", type=checked(_amounts), nargs="?", const=AMOUNTS,
        metavar="A[,A...]")  # fmt: skip


class SensitivityRun:
    """Takes part in one run in place of pruning."""

    def __init__(
        self, run: Run, method: Method, grain: Granularity, seed: int, find: Callable[[nn.Module], Selection],
        facts: dict[str, Any],
    ) -> None:  # fmt: skip
        """Check the flags.

        Args:
            run: Its options have the amounts, and the overall share if there is one.
            method: Of --prune-method.
            grain: Of --prune-granularity.
            seed: For methods that draw, and for the choice of images.
            find: Finds the targets.
            facts: What to say of the method.

        Raises:
            PruneError: If the flags don't go together.
        """
        self.method, self.find, self.facts = method, find, {**facts, "granularity": str(grain), "seed": seed}
        self.amounts: tuple[float, ...] = run.config(SensitivityOptions).prune_sensitivity
        for name in USELESS:
            if hasattr(run.options, name):
                flag = "--" + name.replace("_", "-")
                raise PruneError(f"{flag} does not go with --prune-sensitivity, after which nothing stays pruned")
        self.requests = {}
        for amount in self.amounts:
            try:
                self.requests[amount] = Request(amount, "uniform", grain, seed)
            except PruneError as error:
                raise PruneError(f"--prune-sensitivity {amount:g} --prune-granularity {grain}: {error}") from None
        overall: Optional[float] = getattr(run.options, "prune", None)
        if overall is not None and overall > self.amounts[-1]:
            raise PruneError(f"--prune {overall:g}: the suggested amounts cannot go beyond the largest of"
                             f" --prune-sensitivity, {self.amounts[-1]:g}")  # fmt: skip
        self.overall = min(OVERALL, self.amounts[-1]) if overall is None else overall
        self.suggests = not grain.m  # a layer is N:M or it is not: there is no share to choose

    @hookimpl
    def model_loaded(self, run: Run, model: nn.Module) -> None:
        """Measure, restore, report."""
        from yolov5_prune_plugin.core.pruning.sensitivity import reach, suggest, sweep
        from yolov5_prune_plugin.reporting.console import lasting_bar

        options: CalibrationOptions = run.config(CalibrationOptions)
        wanted = options.prune_calib if "--prune-calib" in run.given(CalibrationOptions) else IMAGES
        images = run.calibration(wanted, options.prune_calib_split, self.facts["seed"])
        targets = self.find(model).targets
        # scores are cheap, and say alike which weights go; a method of its own may take long
        own = not self.method.has_scores()
        self.method.calibrate(run, model, targets)
        size = images.images if own else 8  # asked once, not once a batch
        steps = len(targets) * len(self.amounts) * math.ceil(images.images / size)
        with lasting_bar("sensitivity: layers x amounts", steps, shown=run.main) as advance:
            rows, measure = sweep(model, targets, self.amounts, images.batches(size), self._prune, thorough=own,
                                  progress=advance)  # fmt: skip
        # whole channels, or weights that make the model fail, may leave less than was asked for
        overall = min(self.overall, reach(rows))
        suggested = suggest(rows, overall) if self.suggests else {}
        if run.main:
            facts = {**self.facts, "measure": measure, "images": images.images, "split": options.prune_calib_split}
            _report(run, rows, suggested, overall, facts)

    def _prune(self, target: Target, amount: float) -> None:
        if self.method.has_scores():
            prune_by_scores([target], self.method.scores, self.requests[amount])
        else:
            self.method.prune([target], self.requests[amount])


def _report(
    run: Run, rows: Sequence[Sensitivity], suggested: dict[str, float], overall: float, facts: dict[str, Any]
) -> None:
    from yolov5_prune_plugin.reporting.console import plain_console
    from yolov5_prune_plugin.reporting.next_steps import say_next
    from yolov5_prune_plugin.reporting.run_folder import Writer, csv_of, json_of, text_of, write_report
    from yolov5_prune_plugin.reporting.sensitivity_figures import extremes_table, long_frame, page, plot_heat_map

    console = plain_console()
    amount = min(rows[0].amounts, key=lambda amount: abs(amount - overall))
    title = f"Sensitivity of {', '.join(run.weights)}: {facts['method']}, {facts['granularity']}"
    notes = [
        f"Each layer alone is pruned to a share. The error is the {facts['measure']}, on {facts['images']} images of"
        f" {facts['split']}: a stand-in for accuracy, not mAP; 0 is as dense, about 1 is nothing left.",
    ]
    if suggested:
        notes.append(
            f"suggested: shares per layer with the least sum of errors for {overall:.3g} of all their weights."
        )
    console.print(extremes_table(rows, suggested, amount, f"{title}; error by share pruned, sorted at {amount:g}"))
    for note in notes:
        console.print(note, style="dim")
    folder = run.folder
    if folder is None:
        return
    content = {
        "script": run.script, "weights": run.weights, **facts, "overall": overall if suggested else None,
        "layers": [{**asdict(row), "errors": [e if math.isfinite(e) else None for e in row.errors],
                    "suggested": suggested.get(row.name)} for row in rows],
        "notes": notes, "versions": {"yolov5_prune_plugin": __version__, "torch": torch.__version__},
    }  # fmt: skip

    def write_png(file: Path) -> None:
        plot_heat_map(rows, title, file)

    def write_html(file: Path) -> None:
        image = file.with_name("sensitivity.png").read_bytes()
        file.write_text(page(rows, suggested, title, notes, image), encoding="utf-8")

    files: dict[str, Writer] = {
        "sensitivity.csv": csv_of(long_frame(rows)),
        "sensitivity.json": json_of(content),
        "sensitivity.png": write_png,
        "sensitivity.html": write_html,
    }
    if suggested:
        files["amounts.yaml"] = text_of(_yaml(suggested, overall, title))
    write_report(folder, files)
    console.print(f"report: {folder}", soft_wrap=True)
    if suggested:
        words = without_flags(run.words, "--prune-sensitivity", "--prune", "--prune-calib", "--prune-calib-split")
        file = os.path.relpath(folder / "amounts.yaml")
        command = run.command(run.script, *words, "--prune-amounts", file, "--prune-baseline")
        say_next(console, {"prune by these amounts": command})


def _yaml(suggested: dict[str, float], overall: float, title: str) -> str:
    head = f"# {title}\n# share of each layer's weights to prune; {overall:.3g} of all of them together\n"
    return head + yaml.safe_dump({name: round(share, 6) for name, share in suggested.items()}, sort_keys=False)
