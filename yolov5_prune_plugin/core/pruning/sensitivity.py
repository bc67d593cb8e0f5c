"""Sensitivity: the error when one layer alone is pruned, and the amounts per layer that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.proxy import measure_of, output_error
from yolov5_prune_plugin.core.outputs.replay import Replay
from yolov5_prune_plugin.core.pruning.parameters import Target
from yolov5_prune_plugin.core.pruning.sparsity import zeros_in
from yolov5_prune_plugin.errors import PruneError


@dataclass(frozen=True)
class Sensitivity:
    """One layer's answers.

    Attributes:
        name: Parameter name.
        shape: [out, in / groups, height, width].
        amounts: Shares that were asked for, increasing.
        shares: Shares of zeros that came of them.
        errors: Error of the model's outputs at each, >= 0.
    """

    name: str
    shape: tuple[int, ...]
    amounts: tuple[float, ...]
    shares: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def weights(self) -> int:
        """Entries of the weight."""
        return math.prod(self.shape)


def sweep(
    model: nn.Module,
    targets: Sequence[Target],
    amounts: Sequence[float],
    batches: Iterable[Tensor],
    prune: Callable[[Target, float], None],
    *,
    thorough: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[Sensitivity], str]:
    """Prune each layer alone to each amount, and measure how far the outputs move; afterwards all is as before.

    Args:
        model: In eval mode; restored bit for bit, whatever happens.
        targets: Its layers.
        amounts: Shares of a layer's weights, increasing.
        batches: Inputs, read once; the errors of batches are averaged by their numbers of images.
        prune: Prunes one layer in place to an amount; called once for each batch.
        thorough: Restore all of the model and not just the layer: for a ``prune`` that changes other things too.
        progress: Called after each layer and amount of each batch.

    Returns:
        One ``Sensitivity`` a layer, in their order, and what the error is, in words.

    Raises:
        PruneError: If the dense model's outputs are not finite.
    """
    errors = {(target.name, amount): 0.0 for target in targets for amount in amounts}
    shares: dict[tuple[str, float], float] = {}
    seen, measure = 0, ""
    for batch in batches:
        replay = Replay(model, batch)
        measure = measure_of(replay.outputs)
        if not math.isfinite(output_error(replay.outputs, replay.outputs)):
            raise PruneError("the dense model's outputs on the calibration images are not finite")
        for target in targets:
            kept = _copies(model.state_dict(keep_vars=True).values() if thorough else [target.weight])
            for amount in amounts:
                try:
                    prune(target, amount)
                    weight = target.weight
                    shares[target.name, amount] = 1 - (weight.numel() - zeros_in(weight)) / weight.numel()
                    # what else was changed may come before the layer
                    outputs = replay.run(model if thorough else target.module)
                finally:
                    with torch.no_grad():
                        for tensor, copy in kept:
                            tensor.copy_(copy)
                errors[target.name, amount] += output_error(replay.outputs, outputs) * len(batch)
                progress()
        seen += len(batch)
    rows = [
        Sensitivity(target.name, tuple(target.weight.shape), tuple(amounts),
                    tuple(shares[target.name, amount] for amount in amounts),
                    tuple(errors[target.name, amount] / seen for amount in amounts))
        for target in targets
    ]  # fmt: skip
    return rows, measure


def _copies(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(tensor, tensor.detach().clone()) for tensor in tensors]


def suggest(rows: Sequence[Sensitivity], sparsity: float) -> dict[str, float]:
    """Shares per layer with the least sum of errors for an overall share of zeros.

    Between the measured points of a layer, and from (0, 0) to the first, the error is taken to run along the lower
    convex hull; zeros are then bought one stretch of hull at a time, the cheapest error per weight first, and the last
    stretch in part. For such convex curves that is the exact minimum.

    Args:
        rows: Measured layers; points that are not finite are left out.
        sparsity: Share of all their weights, in [0, 1).

    Returns:
        Share by layer; over all weights they come to ``sparsity``.

    Raises:
        PruneError: If the measured points don't reach that far.
    """
    budget = sparsity * sum(row.weights for row in rows)
    stretches = []
    for order, row in enumerate(rows):
        hull = lower_hull(dict(zip(row.shares, row.errors)))
        for (left, low), (right, high) in zip(hull, hull[1:]):
            weights = (right - left) * row.weights
            stretches.append(((high - low) / weights, order, left, weights))
    bought = dict.fromkeys((row.name for row in rows), 0.0)
    for _, order, _, weights in sorted(stretches):
        part = min(weights, budget)
        bought[rows[order].name] += part
        budget -= part
    if budget > 1e-6 * sum(row.weights for row in rows):
        raise PruneError(f"sparsity {sparsity:g} is more than the measured amounts reach ({reach(rows):.3f})")
    return {row.name: bought[row.name] / row.weights for row in rows}


def reach(rows: Sequence[Sensitivity]) -> float:
    """The overall share of zeros if every layer had the largest share that was measured of it."""
    most = [lower_hull(dict(zip(row.shares, row.errors)))[-1][0] * row.weights for row in rows]
    return sum(most) / sum(row.weights for row in rows)


def lower_hull(points: Mapping[float, float]) -> list[tuple[float, float]]:
    """The lower convex hull of (0, 0) and points (share, error): shares increase, and so do slopes.

    Args:
        points: Error by share, shares in [0, 1]; those that are not finite are left out.
    """
    hull: list[tuple[float, float]] = []
    for x, y in sorted({**{share: max(0.0, e) for share, e in points.items() if math.isfinite(e)}, 0.0: 0.0}.items()):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])
