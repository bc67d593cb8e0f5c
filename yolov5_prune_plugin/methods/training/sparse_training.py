"""Sparse training: which of the ways to a sparse model, or one of shared weights, a train.py runs with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any, Optional, Protocol

from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.parameters import Selection
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot.calibration import CalibrationOptions
from yolov5_prune_plugin.methods.oneshot.oneshot import methods_of
from yolov5_prune_plugin.methods.training.dns import Dns, DnsOptions
from yolov5_prune_plugin.methods.training.gmp import Gmp, GmpOptions
from yolov5_prune_plugin.methods.training.retrain import Keep, KeepOptions, Retrain, RetrainOptions
from yolov5_prune_plugin.methods.training.share import Share, ShareOptions
from yolov5_prune_plugin.plugin_api.run import Run, Training

if TYPE_CHECKING:
    from yolov5_prune_plugin.reporting.training_report import TrainingRecord


class Way(Protocol):
    """One way to a sparse model in training."""

    flag: str

    def facts(self) -> dict[str, object]:
        """How it is done, for the report."""

    def find(self, model: nn.Module) -> Selection:
        """The weights it treats."""

    def rule(self, selection: Selection, training: Training) -> tuple[Rule, Optional[Mapping[str, Tensor]]]:
        """When masks change and how, and what they are at first."""


class SparseTraining:
    """Offers the flags of all ways, and runs the one that was asked for."""

    def __init__(self, hook: Any) -> None:
        self._methods = methods_of(hook)

    @hookimpl
    def options(self, role: str) -> list[type]:
        """In every train.py."""
        if role != "train":
            return []
        own = [cls for cls in self._methods.values() if is_dataclass(cls)]
        return [DnsOptions, GmpOptions, RetrainOptions, KeepOptions, ShareOptions, *own]

    @hookimpl
    def configure(self, run: Run) -> Optional[object]:
        """Check the flags against each other before anything is loaded."""
        if run.role != "train":
            return None
        prune: RetrainOptions = run.config(RetrainOptions)
        asked = {
            "--dns": run.config(DnsOptions).dns,
            "--gmp": run.config(GmpOptions).gmp,
            "--prune": prune.prune is not None or prune.prune_amounts is not None,
            "--keep-zeros": run.config(KeepOptions).keep_zeros,
            "--share-bits": bool(run.config(ShareOptions).share_bits),
        }
        ways = [name for name, wanted in asked.items() if wanted]
        if len(ways) > 1:
            raise PruneError(f"{' and '.join(ways)} are different ways to a sparse model; leave out all but one")
        of_methods = [cls for cls in self._methods.values() if is_dataclass(cls)]
        owners = {"--dns": [DnsOptions], "--gmp": [GmpOptions], "--keep-zeros": [KeepOptions],
                  "--share-bits": [ShareOptions],
                  "--prune": [RetrainOptions, CalibrationOptions, *of_methods]}  # fmt: skip
        for owner, classes in owners.items():
            lonely = [name for cls in classes for name in run.given(cls)]
            if lonely and owner not in ways:
                raise PruneError(f"{lonely[0]} needs {'--prune S' if owner == '--prune' else owner}")
        if not ways:
            return None
        epochs = getattr(run.arguments, "epochs", 1)
        if epochs < 1:
            raise PruneError(f"{ways[0]}: --epochs must be at least 1, got {epochs}; to prune without training take"
                             " val.py --prune S --prune-save FILE")  # fmt: skip
        makers = {"--dns": Dns, "--gmp": Gmp, "--keep-zeros": Keep, "--share-bits": Share,
                  "--prune": lambda run: Retrain(run, self._methods)}  # fmt: skip
        return TrainingRun(run, makers[ways[0]](run))


class TrainingRun:
    """Takes part in one run of a train.py."""

    def __init__(self, run: Run, way: Way) -> None:
        self.run, self.way = run, way
        self.record: Optional[TrainingRecord] = None

    @hookimpl
    def training_begins(self, training: Training) -> None:
        """Find the weights, and put masks on them."""
        from yolov5_prune_plugin.reporting.training_report import (
            TrainingRecord,  # brings rich and pandas: only for such a run
        )

        selection = _trained(self.way.find(training.model), training, self.way.flag)
        rule, masks = self.way.rule(selection, training)
        rule.begin = _naming(self.way.flag, rule.begin)  # type: ignore[method-assign]
        parameters = {target.name: target.module.weight for target in selection.targets}
        training.selection = selection
        training.masked = getattr(self.way, "masked", Masked)(parameters, rule)
        if not training.resumed:
            training.masked.prepare(masks)
        self.record = TrainingRecord(self.run, self.way.facts(), training)

    @hookimpl
    def epoch_trained(self) -> None:
        """Say what happened to the masks."""
        if self.record:
            self.record.epoch()

    @hookimpl
    def training_ended(self) -> None:
        """Report what was saved."""
        if self.record:
            self.record.end()


def _naming(flag: str, begin: Callable[[Masked, int], None]) -> Callable[[Masked, int], None]:
    """What is only known once the training has begun names the flag too."""

    def named(masked: Masked, total: int) -> None:
        try:
            begin(masked, total)
        except PruneError as error:
            raise PruneError(f"{flag}: {error}") from None

    return named


def _trained(selection: Selection, training: Training, flag: str) -> Selection:
    """Without the weights that the optimizer does not train."""
    frozen = {target.name: "frozen" for target in selection.targets if target.name not in training.trained}
    if len(frozen) == len(selection.targets):
        raise PruneError(f"{flag}: all of the Conv2d weights are frozen; with --freeze leave some that train")
    left = tuple(target for target in selection.targets if target.name not in frozen)
    return replace(selection, targets=left, skipped={**selection.skipped, **frozen})
