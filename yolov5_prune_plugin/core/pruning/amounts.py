"""Amounts by layer: the share that each drops, asked for or found in a pruned model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target, any_of
from yolov5_prune_plugin.core.pruning.sparsity import Layer, Sparsity
from yolov5_prune_plugin.errors import PruneError


def check_amounts(amounts: Mapping[str, float]) -> None:
    """Check the numbers.

    Raises:
        PruneError: If one is outside [0, 1), or NaN.
    """
    for name, amount in amounts.items():
        if not 0 <= amount < 1:  # false for NaN too
            raise PruneError(f"the amount of {name} must be in [0, 1), got {amount}")


def check_layers(amounts: Mapping[str, float], selection: Selection) -> None:
    """Check the names.

    Args:
        amounts: Share to drop by name.
        selection: Layers that there are.

    Raises:
        PruneError: If a layer is unknown, or left alone; the message has the nearest names.
    """
    known = [*(target.name for target in selection.targets), *selection.skipped]
    for name in amounts:
        if name in selection.skipped:
            raise PruneError(
                f"{name} has an amount, but is left alone: {selection.skipped[name]}; take one of the two out"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.5)
            hint = f"nearest are {', '.join(near)}" if near else f"they run from {known[0]} to {known[-1]}"
            raise PruneError(f"no {any_of(selection.linear)} weight is called {name!r}; {hint}")


def units_of(targets: Sequence[Target], amounts: Mapping[str, float], grain: Granularity) -> dict[str, int]:
    """Weights, blocks or output channels that each layer drops; of channels at least one stays.

    Args:
        targets: Weights to prune.
        amounts: Share of its units by target name; 0 for those that it does not name.
        grain: ``weight``, ``Ax1`` or ``channel``.

    Returns:
        round(amount * units) by target name.
    """
    units = {target.name: grain.units(target.weight, target.groups) for target in targets}
    drop = {name: round(amounts.get(name, 0) * count) for name, count in units.items()}
    if grain.kind != "channel":
        return drop
    return {target.name: min(drop[target.name], target.weight.shape[0] - 1) for target in targets}


def check_kept(amounts: Mapping[str, float], sparsity: Sparsity, grain: Granularity) -> None:
    """Check that a method did what the amounts asked for: one that prunes by itself may know nothing of them.

    Args:
        amounts: Share to drop by name.
        sparsity: Of the pruned model.
        grain: What was dropped together.

    Raises:
        PruneError: If a layer has fewer zeros than its amount asks for.
    """
    for layer in sparsity.layers:
        zeros, units = _counted(layer, grain)
        if zeros < min(round(amounts.get(layer.name, 0) * units), units - (grain.kind == "channel")):
            raise PruneError(f"the method left {layer.name} at {zeros / units:.3f}, and its amount is"
                             f" {amounts[layer.name]:g}: it does not prune by amounts")  # fmt: skip


def amounts_of(sparsity: Sparsity, grain: Granularity) -> dict[str, float]:
    """Give the amounts of a pruned model, by layer; asked for again, they give the same number of zeros.

    A layer without any weight left gets the largest amount below 1 that still drops all of it.

    Args:
        sparsity: Of the pruned model.
        grain: What was dropped together.
    """
    amounts = {}
    for layer in sparsity.layers:
        if not layer.skipped:
            zeros, units = _counted(layer, grain)
            amounts[layer.name] = min(zeros, units - 0.25) / units
    return amounts


def _counted(layer: Layer, grain: Granularity) -> tuple[int, int]:
    if grain.rows:
        return layer.blocks[grain.rows].empty, layer.blocks[grain.rows].blocks
    return (layer.channels, layer.shape[0]) if grain.kind == "channel" else (layer.zeros, layer.weights)
