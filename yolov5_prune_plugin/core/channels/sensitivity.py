"""Sensitivity of channel groups: what the outputs lose when one group alone gets narrower."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.channels.allocation import widths
from yolov5_prune_plugin.core.channels.cut import silence
from yolov5_prune_plugin.core.channels.groups import Group
from yolov5_prune_plugin.core.outputs.objective import distance

POINTS = 3  # widths of each group that are measured


@torch.no_grad()
def curves(
    model: nn.Module, groups: Sequence[Group], scores: Mapping[str, Tensor], multiple: int, floor: float,
    images: Sequence[Tensor], progress: Callable[[], None] = lambda: None,
) -> dict[str, list[tuple[float, float]]]:  # fmt: skip
    """Measure, for each group alone, how the outputs move away from the dense ones as it gets narrower.

    Args:
        model: Dense, in eval mode; as before afterwards.
        groups: Channel groups of the model.
        scores: Importance of each unit by name of the group, [units]; the lowest go first.
        multiple: What widths are rounded to.
        floor: Least share of a group's units that stays, in (0, 1].
        images: [1, 3, H, W] each.
        progress: Called once for each group.

    Returns:
        By name of the group, points (share gone, ``objective.distance``) from (0, 0) on.
    """
    dense = [copy.deepcopy(model(image)) for image in images]
    layers = dict(model.named_modules())
    found: dict[str, list[tuple[float, float]]] = {}
    for group in groups:
        order = torch.argsort(scores[group.name], stable=True).tolist()
        allowed = widths(group.units, multiple, floor)[1:]
        measured = sorted({allowed[round(i * (len(allowed) - 1) / max(1, POINTS - 1))] for i in range(POINTS)}
                          if allowed else (), reverse=True)  # fmt: skip
        points = [(0.0, 0.0)]
        held = {member.layer: copy.deepcopy(layers[member.layer].state_dict()) for member in group.ins}
        for width in measured:
            try:
                silence(model, [group], {group.name: order[: group.units - width]})
                total = sum(float(distance(y, model(image))) for y, image in zip(dense, images))
            finally:
                for name, state in held.items():
                    layers[name].load_state_dict(state)
            points.append((1 - width / group.units, max(points[-1][1], total / len(images))))
        found[group.name] = points
        progress()
    return found


def by_loss(
    points: Mapping[str, Sequence[tuple[float, float]]], saved: Callable[[Group, Sequence[int]], float]
) -> Callable[[Group, Sequence[int], float], float]:
    """Priority of the allocation by sensitivity: what loses least for what it saves goes first.

    Args:
        points: Points by name of the group, from ``curves``.
        saved: (group, units) -> the share of the dense model's cost that removing them alone saves.
    """

    def priority(group: Group, units: Sequence[int], share: float) -> float:
        before = share - len(units) / group.units
        lost = _at(points[group.name], share) - _at(points[group.name], before)
        return lost / max(saved(group, units), 1e-12)

    return priority


def _at(points: Sequence[tuple[float, float]], share: float) -> float:
    """Interpolate linearly between the points."""
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if share <= x1 + 1e-9:
            return y0 + (y1 - y0) * (share - x0) / (x1 - x0)
    return points[-1][1]
