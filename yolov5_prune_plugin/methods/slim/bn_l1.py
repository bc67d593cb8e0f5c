"""train.py --bn-l1 RATE: Network Slimming's sparsity training; channels that a model can do without fade away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.training.bn_penalty import NEAR, QUANTILES, Penalty, scales_of, summary
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import above_zero, checked, flag, fraction_of
from yolov5_prune_plugin.plugin_api.run import Run, Training


@dataclass
class BnL1Options:
    """Sparsity training of BatchNorm scales (yolov5-prune-plugin)."""

    bn_l1: Optional[float] = flag(
        None, "add RATE times the sign of each BatchNorm scale to its gradient in every optimizer step, as for an L1"
        " penalty: channels fade, and yolov5-prune slim --slim-importance bn takes those", type=checked(above_zero),
        metavar="RATE")  # fmt: skip
    bn_l1_ready: float = flag(
        0.3, f"share of the scales below {NEAR} at which the model is called ready to be slimmed (default 0.3: about"
        " half of the FLOPs)", type=fraction_of("share"), metavar="SHARE")  # fmt: skip


@hookimpl
def options(role: str) -> list[type]:
    """In every train.py."""
    return [BnL1Options] if role == "train" else []


@hookimpl
def configure(run: Run) -> Optional[object]:
    """Take part if it was asked for."""
    given = run.given(BnL1Options)
    if given and "--bn-l1" not in given:
        raise PruneError(f"{given[0]} needs --bn-l1 RATE")
    return BnL1(run) if given else None


class BnL1:
    """Takes part in one run of a train.py."""

    figures = ("near_zero",)

    def __init__(self, run: Run) -> None:
        self.run = run
        self.options: BnL1Options = run.config(BnL1Options)
        self.penalty: Optional[Penalty] = None

    @hookimpl
    def training_begins(self, training: Training) -> None:
        """Put the penalty on the scales, those of a model that was cut before too.

        Raises:
            PruneError: If there are none.
        """
        scales = scales_of(training.model, training.trained)
        if not scales:
            raise PruneError("--bn-l1: no BatchNorm scale of this model is trained; it needs layers with BatchNorm, and"
                             " --freeze must leave some")  # fmt: skip
        assert training.optimizer is not None
        self.penalty = Penalty(scales, float(self.options.bn_l1 or 0))
        self.penalty.attach(training.optimizer)

    @hookimpl(tryfirst=True)
    def epoch_trained(self, training: Training) -> None:
        """Note where the scales are, and say so."""
        assert self.penalty is not None
        last = training.history[-1]
        last.update(summary(self.penalty.scales))
        if not self.run.main:
            return
        number = sum(scale.numel() for scale in self.penalty.scales.values())
        line = (f"yolov5-prune: epoch {last['epoch']}/{training.epochs - 1}: {last['near_zero']:.1%} of {number:,}"
                f" BatchNorm scales below {NEAR}, median {last['gamma_median']:.3g}")  # fmt: skip
        if last["near_zero"] >= self.options.bn_l1_ready:
            line += (f"; ready: at least {self.options.bn_l1_ready:.0%} are, and yolov5-prune slim --slim-importance bn"
                     " takes them first")  # fmt: skip
        print(line, flush=True)
        self._write(training)

    @hookimpl
    def training_ended(self) -> None:
        """Leave the optimizer."""
        if self.penalty:
            self.penalty.detach()

    def _write(self, training: Training) -> None:
        import pandas as pd

        from yolov5_prune_plugin.reporting.run_folder import csv_of, write_report
        from yolov5_prune_plugin.reporting.training_figure import plot_scales

        assert self.run.folder is not None
        frame = pd.DataFrame(training.history)[["epoch", "near_zero", *QUANTILES]]
        title = f"BatchNorm scales, --bn-l1 {self.options.bn_l1:g}"
        write_report(self.run.folder, {
            "gammas.csv": csv_of(frame),
            "gammas.png": lambda file: plot_scales(training.history, self.options.bn_l1_ready, title, file),
        })  # fmt: skip
