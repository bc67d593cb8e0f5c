"""The events of a run. A plug-in answers those it cares for; a function may leave out arguments it does not need."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov5_prune_plugin.plugin_api.run import Evaluation, Measurement, Run, Training

hookspec = pluggy.HookspecMarker("yolov5_prune")


@hookspec
def prune_methods() -> list[type]:  # type: ignore[empty-body]
    """Offer subclasses of ``Method`` for --prune-method."""


@hookspec
def training_methods() -> list[type]:  # type: ignore[empty-body]
    """Offer subclasses of ``TrainingMethod``, each of which a flag of a train.py asks for."""


@hookspec
def options(script: str, role: str) -> list[type]:  # type: ignore[empty-body]
    """Offer dataclasses whose fields become flags of a script, such as ``segment/val.py``, role ``validate``."""


@hookspec
def configure(run: Run) -> object | None:
    """The flags are read and checked; return a plug-in to take part in this run, or None to stay out of it."""


@hookspec
def model_loaded(run: Run, model: nn.Module) -> None:
    """The script loaded a trained model for use; change it in place, before its first forward pass."""


@hookspec(firstresult=True)
def measurements(run: Run) -> Generator[Measurement, Evaluation, None] | None:
    """A val.py starts: yield what to measure, one after the other; each yield gets what came out. None: as usual."""


@hookspec
def evaluated(run: Run, evaluation: Evaluation, baseline: Evaluation | None) -> None:
    """The script measured the model; with ``run.needs_baseline`` the unchanged one too, before it."""


@hookspec
def training_begins(run: Run, training: Training) -> None:
    """A train.py has its model and optimizer: cut channels, or set ``training.masked`` to have weights masked."""


@hookspec
def added_loss(run: Run, images: Tensor, outputs: object) -> Tensor:  # type: ignore[empty-body]
    """A batch went through the model that is trained; return what is to be added to its loss, a mean over images."""


@hookspec
def epoch_trained(run: Run, training: Training) -> None:
    """All steps of an epoch are done, its validation is not; ``training.history[-1]`` is what happened to the masks."""


@hookspec
def training_ended(run: Run, training: Training) -> None:
    """The script trained, validated and stripped its checkpoints."""
