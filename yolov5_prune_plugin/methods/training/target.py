"""What --dns and --gmp share: amounts by layer for speed and an order of channels as a training begins, and checks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import nn

from yolov5_prune_plugin.core.channels.permute import Permutation, permute
from yolov5_prune_plugin.core.outputs.modes import evaluating
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Selection
from yolov5_prune_plugin.core.pruning.target import SpeedTarget
from yolov5_prune_plugin.core.training.ranks import of_the_first, rank
from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.methods.oneshot.obs import TRACED, Obs
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


def begin_in_order(
    way: str, run: Run, training: Training, selection: Selection, grain: Granularity, wanted: Optional[SpeedTarget],
    search: str,
) -> tuple[dict[str, float], dict[str, Any]]:  # fmt: skip
    """Choose amounts by layer for a target of speed, and put channels into an order in which the pattern drops less.

    Both by the curvature of the model's outputs as it is now; without a target the order is by magnitude. The outputs
    stay as they are.

    Args:
        way: ``dns`` or ``gmp``.
        run: Gives images and their size.
        training: The training that begins; its model is changed. The first process chooses for all.
        selection: The layers.
        grain: What goes together.
        wanted: What is left of the multiplications or the time; None: there are no amounts to choose.
        search: For an order: ``search`` or ``off``.

    Returns:
        Amounts by parameter name, and facts of the order for the report.

    Raises:
        PruneError: If the share can't be reached.
    """
    model = training.model

    def choose() -> tuple[dict[str, float], Union[Permutation, str, None]]:
        with evaluating(model):
            if wanted is None:
                return {}, _ordered(run, training, selection, grain) if search == "search" else None
            obs = Obs(prune_permute=search)
            with named(f"--{way}-target {wanted}"):
                obs.calibrate(run, model, selection.targets)
                amounts = chosen_amounts(wanted, "", run, model, selection, obs, Request(0.0, granularity=grain))[0]
        return amounts, obs.order

    amounts, order = of_the_first(choose)
    if isinstance(order, str):
        if run.main:
            print(f"yolov5-prune: channels are pruned in the order that they have: {order}", file=sys.stderr)
        return amounts, {"permutation": {"left_out": order}}
    if order is None:
        return amounts, {}
    if rank():
        order.apply(model)
    return amounts, {"permutation": order.facts()}


def _ordered(run: Run, training: Training, selection: Selection, grain: Granularity) -> Union[Permutation, str, None]:
    """Put channels into an order by magnitude; what was done, or why not."""
    if not (grain.m or grain.rows):
        return None
    size = run.image_size(training.model)
    if size is None:
        return "this script has no imgsz to trace the model at"
    scores = {target.name: target.weight.detach().float().square() / float(target.weight.detach().square().mean())
              for target in selection.targets if grain.m or target.groups == 1}  # fmt: skip
    first = next(module for module in training.model.modules() if isinstance(module, nn.Conv2d))
    sides = [min(side, TRACED) for side in size]
    noise = torch.rand(1, first.in_channels, *sides, generator=torch.Generator().manual_seed(0))
    example = noise.to(first.weight.device)
    try:
        return permute(training.model, example, scores, grain) or "the model's outputs did not stay the same"
    except PruneError as error:
        return str(error)
