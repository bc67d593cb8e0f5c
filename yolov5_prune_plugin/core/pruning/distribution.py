"""Distribution: an overall sparsity -> how many units each layer drops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from torch import Size, Tensor

from yolov5_prune_plugin.core.pruning.importance import lamp as lamp_scores
from yolov5_prune_plugin.core.pruning.selection import counts_below
from yolov5_prune_plugin.errors import PruneError

NAMES = ("uniform", "global", "erk", "lamp")
LOSS = "loss"  # of methods whose scores are the loss of the outputs, comparable between layers: method obs

Scores = Callable[[], Iterable[tuple[str, Tensor]]]


def check_sparsity(sparsity: float) -> float:
    """Return it if it is in [0, 1).

    Raises:
        PruneError: If it is outside, or NaN.
    """
    if not 0 <= sparsity < 1:  # false for NaN too
        raise PruneError(f"sparsity must be in [0, 1), got {sparsity}")
    return sparsity


def distribute(name: str, shapes: Mapping[str, Size], scores: Scores, sparsity: float) -> dict[str, int]:
    """How many weights each layer drops.

    Args:
        name: One of ``NAMES``.
        shapes: Weight shape [out, in, *kernel] of each layer.
        scores: Yields (layer, scores), scores >= 0; called only by ``global`` and ``lamp``, once or twice.
        sparsity: Share of all weights to drop, in [0, 1).

    Returns:
        Weights to drop, by layer. ``uniform`` rounds each layer, as upstream's ``prune`` does; the others add up to
        round(sparsity * all weights).

    Raises:
        PruneError: If the name or the sparsity is none of these.
    """
    check_sparsity(sparsity)
    sizes = {layer: math.prod(shape) for layer, shape in shapes.items()}
    if name == "uniform":
        return {layer: round(sparsity * size) for layer, size in sizes.items()}
    drop = round(sparsity * sum(sizes.values()))
    if name == "global":
        return counts_below(scores, drop)
    if name == "lamp":
        ranked = [(layer, lamp_scores(values)) for layer, values in scores()]
        return counts_below(lambda: ranked, drop)
    if name == "erk":
        return erk(shapes, sparsity)
    raise PruneError(f"distribution must be one of {', '.join(NAMES)}, got {name!r}")


def distribute_blocks(
    name: str, shapes: Mapping[str, Size], blocks: Mapping[str, int], scores: Scores, sparsity: float
) -> dict[str, int]:
    """How many blocks each layer drops.

    Args:
        name: One of ``NAMES``.
        shapes: Weight shape [out, in, *kernel] of each layer.
        blocks: How many blocks each layer has.
        scores: Yields (layer, block scores), scores >= 0; called only by ``global`` and ``lamp``, once or twice.
        sparsity: Share of all blocks to drop, in [0, 1); of the weights it is the same but for shorter last blocks.

    Raises:
        PruneError: If the name or the sparsity is none of these.
    """
    if name != "erk":
        return distribute(name, {layer: Size([count]) for layer, count in blocks.items()}, scores, sparsity)
    shares = {layer: count / math.prod(shapes[layer]) for layer, count in erk(shapes, sparsity).items()}
    exact = {layer: shares[layer] * count for layer, count in blocks.items()}
    return _rounded(exact, round(sum(exact.values())))


def distribute_channels(name: str, shapes: Mapping[str, Size], scores: Scores, sparsity: float) -> dict[str, int]:
    """How many output channels each layer drops; at least one of each stays.

    Args:
        name: One of ``NAMES``.
        shapes: Weight shape [out, in, *kernel] of each layer.
        scores: Yields (layer, channel scores [out]), scores >= 0; called only by ``global`` and ``lamp``.
        sparsity: Share of all weights to drop, in [0, 1); whole channels come as near to it as they can.

    Raises:
        PruneError: If the name or the sparsity is none of these.
    """
    check_sparsity(sparsity)
    if name == "uniform":
        return {layer: min(round(sparsity * shape[0]), shape[0] - 1) for layer, shape in shapes.items()}
    if name == "global":
        return pick_channels(shapes, dict(scores()), sparsity)
    if name == "lamp":
        return pick_channels(shapes, {layer: lamp_scores(values) for layer, values in scores()}, sparsity)
    if name == "erk":
        weights = erk(shapes, sparsity)
        return {
            layer: min(round(weights[layer] / math.prod(shape[1:])), shape[0] - 1) for layer, shape in shapes.items()
        }
    raise PruneError(f"distribution must be one of {', '.join(NAMES)}, got {name!r}")


def erk(shapes: Mapping[str, Size], sparsity: float) -> dict[str, int]:
    """Erdos-Renyi-Kernel: a layer's density is proportional to the sum of its sides over their product.

    Layers that would need a density above 1 stay dense, and the others make up for them.

    Args:
        shapes: Weight shape [out, in, *kernel] of each layer.
        sparsity: Share of all weights to drop, in [0, 1).

    Returns:
        Weights to drop, by layer; they add up to round(sparsity * all weights).

    Reference:
        Evci et al. 2020, https://arxiv.org/abs/1911.11134
    """
    sizes = {layer: math.prod(shape) for layer, shape in shapes.items()}
    drop = round(check_sparsity(sparsity) * sum(sizes.values()))
    raw = {layer: sum(shape) / sizes[layer] for layer, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        sparse = [layer for layer in shapes if layer not in dense]
        if not sparse:
            return dict.fromkeys(shapes, 0)
        budget = sum(sizes[layer] for layer in sparse) - drop
        scale = budget / sum(raw[layer] * sizes[layer] for layer in sparse)
        full = {layer for layer in sparse if scale * raw[layer] >= 1}
        if not full:
            exact = {layer: sizes[layer] * (1 - scale * raw[layer]) for layer in sparse}
            return {**dict.fromkeys(dense, 0), **_rounded(exact, drop)}
        dense |= full


def pick_channels(shapes: Mapping[str, Size], units: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """Whole output channels over all layers, lowest score first, until the weights add up to the sparsity.

    Args:
        shapes: Weight shape [out, in, *kernel] of each layer.
        units: Channel scores [out] of each layer, comparable between layers.
        sparsity: Share of all weights to drop, in [0, 1).

    Returns:
        Channels to drop, by layer; at least one channel of each layer stays.
    """
    budget = check_sparsity(sparsity) * sum(math.prod(shape) for shape in shapes.values())
    ranked = sorted((score, layer) for layer, scores in units.items() for score in scores.tolist())
    counts = dict.fromkeys(shapes, 0)
    dropped = 0
    for _, layer in ranked:
        size = math.prod(shapes[layer][1:])
        if counts[layer] + 1 < shapes[layer][0] and dropped + size <= budget + size / 2:
            counts[layer] += 1
            dropped += size
    return counts


def _rounded(exact: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers near the exact ones that add up to the total (largest remainder)."""
    counts = {layer: math.floor(value) for layer, value in exact.items()}
    order = sorted(exact, key=lambda layer: counts[layer] - exact[layer])
    for layer in order[: total - sum(counts.values())]:
        counts[layer] += 1
    return counts
