"""How channel groups share what is to go: all removals in one order, of which as many are taken as a target needs."""

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
    """One removal: some units of one group, which lead from one width that is allowed to the next.

    Attributes:
        group: Its name.
        units: Those that go.
        share: What is gone of the group after it, in (0, 1).
        priority: Lower goes first; never falls from one step of a group to the next.
    """

    group: str
    units: tuple[int, ...]
    share: float
    priority: float


def widths(units: int, multiple: int, floor: float) -> list[int]:
    """How many units a group may have: all, then every multiple below that is not less than the floor.

    Args:
        units: That it has, at least 1.
        multiple: What widths are rounded to.
        floor: Share of the units that stays at least, in (0, 1].
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
    """All removals of all groups, in the order in which they are made.

    Args:
        groups: That may be pruned.
        scores: Importance of each unit by name of the group [units]; the lowest goes first.
        multiple: As for ``widths``.
        floor: As for ``widths``.
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
    """Uniform: every group loses the same share."""
    return share


def by_score(scores: Mapping[str, Tensor]) -> Callable[[Group, Sequence[int], float], float]:
    """Global: what has the lowest mean score goes first, in whichever group."""
    return lambda group, units, share: float(scores[group.name][list(units)].mean())


def gone_after(order: Sequence[Step], count: int) -> dict[str, list[int]]:
    """The units that are gone after some steps, by name of their group."""
    removed: dict[str, list[int]] = {}
    for step in order[:count]:
        removed.setdefault(step.group, []).extend(step.units)
    return removed


def fewest(order: Sequence[Step], cost: Callable[[dict[str, list[int]]], float], target: float, what: str) -> int:
    """The least number of steps whose cost is at most the target, by bisection: more steps never cost more.

    Args:
        order: All steps.
        cost: Of units removed, as a share of the dense model's.
        target: The share wanted.
        what: What the cost counts, such as ``flops``, for the message.

    Raises:
        PruneError: If all steps together do not reach it; it says what they do.
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
