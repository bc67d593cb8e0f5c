"""--prune-target: amounts by layer chosen for speed, so that this share of the multiplications or time is left."""

from __future__ import annotations

import math
from typing import Any, Optional

from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.multiplications import uses_at
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target
from yolov5_prune_plugin.core.pruning.target import (
    FLOPS,
    LATENCY,
    SpeedTarget,
    amounts_for,
    amounts_for_time,
    tables_by_scores,
    tables_by_sensitivity,
)
from yolov5_prune_plugin.core.runtime.costs import AMOUNTS as COSTED
from yolov5_prune_plugin.core.runtime.costs import Costs, measured_costs
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.plugin_api.methods import Method
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.reporting.console import lasting_bar

LOSSES = ("scores", "sensitivity")
MEASURED = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)  # amounts of a layer whose sensitivity is measured
IMAGES = 16
BATCH = 8


def speed_target(text: str) -> SpeedTarget:
    """Read ``flops=0.5`` or ``latency=0.5``: the share of the multiplications, or of the time, that is left.

    Raises:
        PruneError: If it is none.
    """
    what, _, share = text.partition("=")
    try:
        if what in (FLOPS, LATENCY) and 0 < float(share) < 1:
            return SpeedTarget(what, float(share))
    except ValueError:
        pass
    raise PruneError("must be flops=S or latency=S with S above 0 and below 1, the share of the multiplications or of"
                     f" the time in the sparse runtime that is left, such as flops=0.5; got {text!r}")  # fmt: skip


def chosen_amounts(
    wanted: SpeedTarget, losses: str, run: Run, model: nn.Module, selection: Selection, method: Method,
    request: Request, known: Optional[list[Costs]] = None,
) -> tuple[dict[str, float], dict[str, Any]]:  # fmt: skip
    """Choose amounts by layer for a share of the multiplications, or of the time.

    Args:
        wanted: The share.
        losses: ``scores`` adds up what the method says of each weight, ``sensitivity`` prunes each layer alone and
            measures; empty takes the method's own tables, or sensitivity where it has no scores.
        run: Gives the image size, and images for sensitivity.
        model: The model, dense.
        selection: Its layers.
        method: Was calibrated for them.
        request: Gives the granularity and the seed.
        known: Where times are kept from one call to the next, for the same model.

    Returns:
        Amounts by parameter name, and what was measured for them: plain values for the report.

    Raises:
        PruneError: If the share can't be reached, there is no image size to count at, or no runtime to measure with.
    """
    size = run.image_size(model)
    if size is None:
        raise PruneError("multiplications are counted at an image size, and this script has no imgsz")
    uses = uses_at(model, *size)
    if losses == "scores" and not method.has_scores():
        raise PruneError(f"the method {method.name} has no scores to add up; take sensitivity")
    costs = None
    if wanted.what == LATENCY:
        costs = known[0] if known else _times(run, model, size, selection, request.granularity)
        if known is not None:
            known[:] = [costs]
    if losses == "sensitivity" or not method.has_scores():
        tables = _by_sensitivity(run, model, selection, method, request, uses)
    elif losses == "scores":
        tables = tables_by_scores(
            selection.targets, lambda target: method.losses(target, request), request.granularity, uses
        )
    else:
        tables = method.tables(selection.targets, request, uses)
    if costs is None:
        return amounts_for(wanted.left, tables, model, selection, uses), {}
    tables = {name: table for name, table in tables.items() if name in costs.layers}
    amounts, ms = amounts_for_time(wanted.left, tables, costs.at, costs.rest)
    facts = {"kernels": costs.kernels, "threads": 1, "dense_ms": round(costs.dense, 3), "chosen_ms": round(ms, 3)}
    return {target.name: 0.0 for target in selection.targets} | amounts, facts


def _times(run: Run, model: nn.Module, size: tuple[int, int], selection: Selection, grain: Granularity) -> Costs:
    names = [target.name for target in selection.targets]
    with lasting_bar("target: times of layers at amounts", len(COSTED), shown=run.main) as advance:
        return measured_costs(model, size, names, grain, advance)


def check_target(granularity: str, asked: str) -> None:
    """Refuse a pattern, whose multiplications are fixed.

    Args:
        granularity: As the flag has it.
        asked: Flags and values, for the message.

    Raises:
        PruneError: If it is one.
    """
    grain = Granularity.parse(granularity)
    if grain.m:
        raise PruneError(f"{asked}: the pattern {grain} leaves {grain.n / grain.m:g} of every layer, so there is"
                         " nothing to choose; take weight, Ax1 or channel")  # fmt: skip


def _by_sensitivity(
    run: Run, model: nn.Module, selection: Selection, method: Method, request: Request, uses: dict[str, int]
) -> Any:
    from yolov5_prune_plugin.core.pruning.sensitivity import sweep

    own = not method.has_scores()

    def prune(target: Target, amount: float) -> None:
        asked = Request(amount, "uniform", request.granularity, request.seed)
        if own:
            method.prune([target], asked)
        else:
            prune_by_scores([target], method.scores, asked)

    images = run.calibration(IMAGES, "train", request.seed)
    size = images.images if own else BATCH
    steps = len(selection.targets) * len(MEASURED) * math.ceil(images.images / size)
    with lasting_bar("target: layers x amounts", steps, shown=run.main) as advance:
        rows, _ = sweep(model, selection.targets, MEASURED, images.batches(size), prune, thorough=own, progress=advance)
    return tables_by_sensitivity(rows, uses)
