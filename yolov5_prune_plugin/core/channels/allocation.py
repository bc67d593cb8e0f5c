"""Allocation: all removals of all channel groups in one order, and how many of them a target needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov5_prune_plugin.core.channels.groups import Group
from yolov5_prune_plugin.errors import PruneError

ALLOCATIONS = ("uniform", "global", "sensitivity")


@dataclass(frozen=True)
class Step:
    """One removal: units of one channel group, which lead from one allowed width to the next.

    Attributes:
        group: Name of the group.
        units: Indices of the units that go.
        share: Share of the group's units that is gone after it, in (0, 1).
        priority: Lower goes first; never falls from one step of a group to the next.
    """

    group: str
    units: tuple[int, ...]
    share: float
    priority: float


def widths(units: int, multiple: int, floor: float) -> list[int]:
    """List the widths that a group may have: all units, then every multiple below that is not less than the floor.

    Args:
        units: Units of the group, at least 1.
        multiple: What widths are rounded to.
        floor: Least share of the units that stays, in (0, 1].

    Returns:
        Numbers of units, descending.
    """
    least = max(1, -int(-units * floor // 1))
    return [units, *(w for w in range((units - 1) // multiple * multiple, 0, -multiple) if w >= least)]


def steps(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    multiple: int,
    floor: float,
    priority: Callable[[Group, Sequence[int], float], float],
) -> list[Step]:
    """Order all removals of all groups.

    Args:
        groups: Channel groups that may be pruned.
        scores: Importance of each unit by name of the group, [units]; the lowest goes first.
        multiple: What widths are rounded to.
        floor: Least share of a group's units that stays, in (0, 1].
        priority: (group, units that go in this step, share that is gone after it) -> when; lower is earlier.
    """
    found: list[Step] = []
    for group in groups:
        order = torch.argsort(scores[group.name], stable=True).tolist()
        last, gone = float("-inf"), 0
        for width in widths(group.units, multiple, floor)[1:]:
            units = order[gone : group.units - width]
            gone = group.units - width
            last = max(last, priority(group, units, gone / group.units))
            found.append(Step(group.name, tuple(units), gone / group.units, last))
    return sorted(found, key=lambda step: step.priority)  # stable, so steps of a group stay in their order


def by_share(group: Group, units: Sequence[int], share: float) -> float:
    """Priority of the uniform allocation: every group loses the same share.

    Args:
        group: Not looked at.
        units: Not looked at.
        share: Share of the group's units that is gone after the removal.
    """
    return share


def by_score(scores: Mapping[str, Tensor]) -> Callable[[Group, Sequence[int], float], float]:
    """Priority of the global allocation: the units of the lowest mean score go first, in whichever group."""
    return lambda group, units, share: float(scores[group.name][list(units)].mean())


def gone_after(order: Sequence[Step], count: int) -> dict[str, list[int]]:
    """Collect the units that are gone after some removals.

    Args:
        order: All removals.
        count: How many of them are made.

    Returns:
        Indices of units by name of their group.
    """
    removed: dict[str, list[int]] = {}
    for step in order[:count]:
        removed.setdefault(step.group, []).extend(step.units)
    return removed


def fewest(order: Sequence[Step], cost: Callable[[dict[str, list[int]]], float], target: float, what: str) -> int:
    """Find the least number of removals whose cost is at most the target, by bisection: more never cost more.

    Args:
        order: All removals.
        cost: Units removed, by name of their group -> share of the dense model's cost that is left.
        target: The share wanted, in (0, 1].
        what: What the cost counts, such as ``flops``, for the message.

    Raises:
        PruneError: If all removals together do not reach it; it says what they do.
    """
    reachable = cost(gone_after(order, len(order)))
    if reachable > target:
        raise PruneError(f"{what}={target:g} cannot be reached: with every group at its floor {reachable:.3f} of the"
                         " dense model is left", "target")  # fmt: skip
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if cost(gone_after(order, middle)) <= target:
            high = middle
        else:
            low = middle + 1
    return low
