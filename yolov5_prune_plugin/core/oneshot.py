"""One-shot pruning: scores -> how much each layer drops -> masks -> weights, in one go."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from yolov5_prune_plugin.core.distribution import check_sparsity, distribute, distribute_channels
from yolov5_prune_plugin.core.granularity import Granularity, nm_mask
from yolov5_prune_plugin.core.mask import apply_mask, lowest_dropped
from yolov5_prune_plugin.core.target import Target
from yolov5_prune_plugin.errors import PruneError


@dataclass(frozen=True)
class Request:
    """What is asked of a pruning method.

    Attributes:
        sparsity: Share of the targets' weights to drop, in [0, 1).
        distribution: ``uniform``, ``global``, ``erk`` or ``lamp``.
        granularity: What is dropped together.
        seed: For methods that draw.

    Raises:
        PruneError: If they don't go together.
    """

    sparsity: float
    distribution: str = "uniform"
    granularity: Granularity = Granularity("weight")
    seed: int = 0

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        grain = self.granularity
        if not grain.m:
            return
        fixed = 1 - grain.n / grain.m
        if not math.isclose(self.sparsity, fixed, abs_tol=0.005):
            raise PruneError(f"granularity {grain} drops exactly {fixed:g} of the weights; sparsity {self.sparsity:g}"
                             f" does not go with it, {fixed:g} does")  # fmt: skip
        if self.distribution != "uniform":
            raise PruneError(f"granularity {grain} is the same in every layer: distribution must be uniform,"
                             f" got {self.distribution!r}")  # fmt: skip


ScoreFunction = Callable[[Target, Request], Tensor]


def prune_by_scores(targets: Sequence[Target], score: ScoreFunction, request: Request) -> None:
    """Zero the weights that score lowest, in place, one layer's scores and mask in memory at a time.

    Args:
        targets: Weights to prune.
        score: Importance of one target's weights, shaped like them, >= 0, higher is kept. It may be called more than
            once for a target and must then answer alike.
        request: How much, spread how, in what grain.
    """
    drop = _drops(targets, score, request)
    for target in targets:
        apply_mask(target.weight, _mask(target, _checked(score, target, request), drop, request.granularity))


def _drops(targets: Sequence[Target], score: ScoreFunction, request: Request) -> dict[str, int]:
    """Units to drop, by target name; empty for N:M, where every group drops the same."""
    grain, sparsity = request.granularity, request.sparsity
    shapes = {target.name: target.weight.shape for target in targets}

    def scores() -> Iterator[tuple[str, Tensor]]:
        for target in targets:
            yield target.name, grain.unit_scores(_checked(score, target, request))

    if grain.m:
        return {}
    spread = distribute_channels if grain.kind == "channel" else distribute
    return spread(request.distribution, shapes, scores, sparsity)


def _mask(target: Target, scores: Tensor, drop: dict[str, int], grain: Granularity) -> Tensor:
    if grain.m:
        return nm_mask(scores, grain.n, grain.m)
    return grain.expand(lowest_dropped(grain.unit_scores(scores), drop[target.name]), target.weight)


def _checked(score: ScoreFunction, target: Target, request: Request) -> Tensor:
    scores = score(target, request)
    if scores.shape != target.weight.shape:
        raise PruneError(f"the method gave scores of shape {tuple(scores.shape)} for {target.name},"
                         f" whose shape is {tuple(target.weight.shape)}")  # fmt: skip
    return scores
