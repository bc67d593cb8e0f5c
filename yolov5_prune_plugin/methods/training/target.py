"""--dns-target and --gmp-target: amounts by layer chosen for speed when a training begins; checks of granularities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from yolov5_prune_plugin.core.outputs.modes import evaluating
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Selection
from yolov5_prune_plugin.core.pruning.target import SpeedTarget
from yolov5_prune_plugin.core.training.ranks import of_the_first
from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.methods.oneshot.obs import Obs
from yolov5_prune_plugin.methods.oneshot.target import chosen_amounts
from yolov5_prune_plugin.plugin_api.run import Run, Training


def check_grain(way: str, grain: Granularity, wanted: Optional[SpeedTarget], given: Sequence[str]) -> None:
    """Refuse flags that say what a pattern or a target says already.

    Args:
        way: ``dns`` or ``gmp``.
        grain: Of its granularity flag.
        wanted: Of its target flag; None if it was not given.
        given: Its flags that were given.

    Raises:
        PruneError: If there is one.
    """
    fixed = [f"--{way}-sparsity", f"--{way}-distribution"]
    pattern = [*fixed, f"--{way}-target", f"--{way}-c-rate"]
    for flag in given:
        if grain.m and flag in pattern:
            raise PruneError(f"--{way}-granularity {grain} keeps {grain.n} of every {grain.m} in every layer; leave out"
                             f" {flag}")  # fmt: skip
        if wanted is not None and flag in fixed:
            raise PruneError(f"--{way}-target says how much each layer loses; leave out {flag}")


def training_amounts(
    flag: str, wanted: SpeedTarget, run: Run, training: Training, selection: Selection, grain: Granularity
) -> dict[str, float]:
    """Choose amounts by layer for a target of speed, by the curvature of the model's outputs as it is now.

    Args:
        flag: The target's, for errors.
        wanted: What is left.
        run: Gives images and their size.
        training: The training that begins; the first process chooses for all.
        selection: The layers.
        grain: What goes together.

    Raises:
        PruneError: If the share can't be reached.
    """

    def choose() -> dict[str, float]:
        obs, model = Obs(), training.model
        with named(f"{flag} {wanted}"), evaluating(model):
            obs.calibrate(run, model, selection.targets)
            return chosen_amounts(wanted, "", run, model, selection, obs, Request(0.0, granularity=grain))[0]

    found: dict[str, float] = of_the_first(choose)
    return found
