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
    """Offer dataclasses whose fields become flags of a script.

    Args:
        script: Path relative to the checkout, such as ``segment/val.py``.
        role: ``validate``, ``use``, ``export`` or ``train``.
    """


@hookspec
def configure(run: Run) -> object | None:
    """Check the flags, which are read by now; return a plug-in to take part in this run, or None to stay out of it."""


@hookspec
def model_loaded(run: Run, model: nn.Module) -> None:
    """The script loaded a trained model for use; change it in place, before its first forward pass.

    Args:
        run: The run.
        model: With upstream's layer names, in eval mode.
    """


@hookspec(firstresult=True)
def measurements(run: Run) -> Generator[Measurement, Evaluation, None] | None:
    """A val.py starts: yield what to measure, one after the other; each yield gets what came out. None: as usual."""


@hookspec
def evaluated(run: Run, evaluation: Evaluation, baseline: Evaluation | None) -> None:
    """The script measured the model.

    Args:
        run: The run.
        evaluation: What came out, last of all.
        baseline: Of the unchanged model, measured before, if ``run.needs_baseline`` was set.
    """


@hookspec
def finished(run: Run) -> None:
    """A script that uses or exports a model did its work."""


@hookspec
def training_begins(run: Run, training: Training) -> None:
    """A train.py has its model and optimizer: cut channels, or set ``training.masked`` to have weights masked.

    Args:
        run: The run; its folder is known.
        training: What may be changed.
    """


@hookspec
def added_loss(run: Run, images: Tensor, outputs: object) -> Tensor:  # type: ignore[empty-body]
    """A batch went through the model that is trained; return what is to be added to its loss, a mean over images.

    Args:
        run: The run.
        images: [B, 3, H, W], as the model got them.
        outputs: Of the model in training mode.

    Returns:
        A scalar with gradient.
    """


@hookspec
def epoch_trained(run: Run, training: Training) -> None:
    """All steps of an epoch are done, its validation is not.

    Args:
        run: The run.
        training: ``history[-1]`` is what happened to the masks; figures may be added there.
    """


@hookspec
def training_ended(run: Run, training: Training) -> None:
    """The script trained, validated and stripped its checkpoints.

    Args:
        run: The run.
        training: ``saved`` has the zeros in each checkpoint.
    """
