"""Sparse training: which way of training a train.py was asked for, and what that does in its run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.multiplications import uses_at
from yolov5_prune_plugin.core.pruning.parameters import Selection
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.plugin_api.methods import TrainingMethod, oneshot_methods, own_options, training_methods
from yolov5_prune_plugin.plugin_api.run import Run, Training

if TYPE_CHECKING:
    from yolov5_prune_plugin.reporting.training_report import TrainingRecord


def make_plugin(hook: Any) -> SparseTraining:
    """Make what answers the events: it asks the other plug-ins for their ways of training."""
    return SparseTraining(hook)


class SparseTraining:
    """Offers the flags of all ways of training, and runs the one that was asked for."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook

    @hookimpl
    def options(self, role: str) -> list[type]:
        """In every train.py."""
        if role != "train":
            return []
        ways = [cls.options_class for cls in training_methods(self._hook).values()]
        return [*ways, *own_options(oneshot_methods(self._hook))]

    @hookimpl
    def configure(self, run: Run) -> Optional[object]:
        """Check the flags against each other before anything is loaded."""
        if run.role != "train":
            return None
        ways, methods = training_methods(self._hook), oneshot_methods(self._hook)
        asked = [flag for flag, cls in ways.items() if cls.asked_for(run)]
        if len(asked) > 1:
            raise PruneError(f"{' and '.join(asked)} are different ways to a sparse model; leave out all but one")
        for flag, cls in ways.items():
            lonely = [name for one in cls.option_classes(methods) for name in run.given(one)]
            if lonely and flag not in asked:
                raise PruneError(f"{lonely[0]} needs {cls.how_to_ask or flag}")
        if not asked:
            return None
        epochs = getattr(run.arguments, "epochs", 1)
        if epochs < 1:
            raise PruneError(f"{asked[0]}: --epochs must be at least 1, got {epochs}; to prune without training take"
                             " val.py --prune S --prune-save FILE")  # fmt: skip
        return TrainingRun(run, ways[asked[0]](run, methods))


class TrainingRun:
    """Takes part in one run of a train.py."""

    def __init__(self, run: Run, method: TrainingMethod) -> None:
        self.run, self.method = run, method
        self.record: Optional[TrainingRecord] = None

    @hookimpl
    def training_begins(self, training: Training) -> None:
        """Find the weights, and put masks on them."""
        from yolov5_prune_plugin.reporting.training_report import TrainingRecord  # brings rich and pandas

        method = self.method
        selection = _trained(method.find(training.model), training, method.flag)
        first, rule = method.first_masks(selection, training), method.rule(selection, training)
        parameters = {target.name: target.module.weight for target in selection.targets}
        training.selection = selection
        size = self.run.image_size(training.model)
        training.uses = uses_at(training.model, *size) if size else {}
        training.masked = method.masked(parameters, rule)
        training.masked.field = method.flag
        if not training.resumed:
            training.masked.prepare(first)
        self.record = TrainingRecord(self.run, method.facts(), training)
        training.masked.on_begin = self.record.begins

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


def _trained(selection: Selection, training: Training, flag: str) -> Selection:
    """Without the weights that the optimizer does not train."""
    frozen = {target.name: "frozen" for target in selection.targets if target.name not in training.trained}
    if len(frozen) == len(selection.targets):
        raise PruneError(f"{flag}: all of the Conv2d weights are frozen; with --freeze leave some that train")
    left = tuple(target for target in selection.targets if target.name not in frozen)
    return replace(selection, targets=left, skipped={**selection.skipped, **frozen})
