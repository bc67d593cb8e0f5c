"""One-shot pruning: scores -> how much each layer drops -> masks -> weights, in one go."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from yolov5_prune_plugin.core.pruning.amounts import check_amounts, check_layers, units_of
from yolov5_prune_plugin.core.pruning.distribution import (
    check_sparsity,
    distribute,
    distribute_blocks,
    distribute_channels,
)
from yolov5_prune_plugin.core.pruning.granularity import Granularity, nm_mask
from yolov5_prune_plugin.core.pruning.mask import apply_mask, lowest_dropped
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target
from yolov5_prune_plugin.errors import PruneError


@dataclass(frozen=True)
class Request:
    """What is asked of a pruning method.

    Attributes:
        sparsity: Share of the targets' weights to drop, in [0, 1).
        distribution: ``uniform``, ``global``, ``erk`` or ``lamp``; without a meaning if there are amounts.
        granularity: What is dropped together.
        seed: For methods that draw.
        amounts: Share of its units that each layer drops, in [0, 1), by target name; the others stay dense. Empty
            leaves it to the distribution.

    Raises:
        PruneError: If they don't go together.
    """

    sparsity: float
    distribution: str = "uniform"
    granularity: Granularity = Granularity("weight")
    seed: int = 0
    amounts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        check_amounts(self.amounts)
        grain = self.granularity
        if not grain.m:
            return
        if self.amounts:
            raise PruneError(
                f"granularity {grain} drops the same of every layer; amounts by layer need weight, Ax1 or channel"
            )
        fixed = 1 - grain.n / grain.m
        if not math.isclose(self.sparsity, fixed, abs_tol=0.005):
            raise PruneError(f"granularity {grain} drops exactly {fixed:g} of the weights; sparsity {self.sparsity:g}"
                             f" does not go with it, {fixed:g} does")  # fmt: skip
        if self.distribution != "uniform":
            raise PruneError(f"granularity {grain} is the same in every layer: distribution must be uniform,"
                             f" got {self.distribution!r}")  # fmt: skip

    def fitted(self, selection: Selection) -> Request:
        """The same for a model: with amounts, ``sparsity`` becomes the share of all targets' weights that they drop.

        Raises:
            PruneError: If an amount is for a layer that the selection leaves alone or does not have.
        """
        if not self.amounts:
            return self
        check_layers(self.amounts, selection)
        units = units_of(selection.targets, self.amounts, self.granularity)
        sizes = {target.name: target.weight.numel() for target in selection.targets}
        grain = {target.name: self.granularity.units(target.weight, target.groups) for target in selection.targets}
        dropped = sum(units[name] * sizes[name] // grain[name] for name in units)
        return replace(self, sparsity=dropped / sum(sizes.values()))


ScoreFunction = Callable[[Target, Request], Tensor]


def prune_by_scores(targets: Sequence[Target], score: ScoreFunction, request: Request) -> None:
    """Zero the weights that score lowest, in place, one layer's scores and mask in memory at a time.

    Args:
        targets: Weights to prune.
        score: Importance of one target's weights, shaped like them, >= 0, higher is kept. It may be called more than
            once for a target and must then answer alike.
        request: How much, spread how, in what grain.
    """
    drop = units_to_drop(targets, score, request)
    for target in targets:
        apply_mask(target.weight, mask_of(target, _checked(score, target, request), drop, request.granularity))


def units_to_drop(targets: Sequence[Target], score: ScoreFunction, request: Request) -> dict[str, int]:
    """How much each layer drops, by the request's amounts or else its distribution; nothing is changed.

    Args:
        targets: Weights to prune.
        score: As for ``prune_by_scores``; called by the distributions ``global`` and ``lamp`` only.
        request: How much, spread how, in what grain.

    Returns:
        Weights, blocks or output channels by target name, as the granularity has it; empty for N:M, where every group
        drops the same.

    Raises:
        PruneError: If the distribution is unknown, or scores don't fit the weights.
    """
    if request.amounts:
        return units_of(targets, request.amounts, request.granularity)
    grain, sparsity = request.granularity, request.sparsity
    shapes = {target.name: target.weight.shape for target in targets}

    def scores() -> Iterator[tuple[str, Tensor]]:
        for target in targets:
            yield target.name, grain.unit_scores(_checked(score, target, request), target.groups)

    if grain.m:
        return {}
    if grain.rows:
        blocks = {target.name: grain.units(target.weight, target.groups) for target in targets}
        return distribute_blocks(request.distribution, shapes, blocks, scores, sparsity)
    spread = distribute_channels if grain.kind == "channel" else distribute
    return spread(request.distribution, shapes, scores, sparsity)


def mask_of(target: Target, scores: Tensor, drop: Mapping[str, int], grain: Granularity) -> Tensor:
    """The mask of one layer: as much dropped as ``units_to_drop`` says, lowest scores first.

    Args:
        target: The layer.
        scores: Shaped like its weight, higher is kept.
        drop: Units to drop by target name; not looked at for N:M.
        grain: What is dropped together.

    Returns:
        Bool, shaped like the weight, True where it is kept.
    """
    if grain.m:
        return nm_mask(scores, grain.n, grain.m)
    kept = lowest_dropped(grain.unit_scores(scores, target.groups), drop[target.name])
    return grain.to_weights(kept, target.weight, target.groups)


def _checked(score: ScoreFunction, target: Target, request: Request) -> Tensor:
    scores = score(target, request)
    if scores.shape != target.weight.shape:
        raise PruneError(f"the method gave scores of shape {tuple(scores.shape)} for {target.name},"
                         f" whose shape is {tuple(target.weight.shape)}")  # fmt: skip
    return scores
