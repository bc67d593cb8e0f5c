"""Amounts by layer within a budget: the least loss, by tables of what each amount loses and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError

BUCKETS = 10_000  # of the budget, as in SPDY
HALVINGS = 60


@dataclass(frozen=True)
class Table:
    """What one layer loses and costs at some amounts.

    Attributes:
        amounts: Shares that are dropped, increasing.
        losses: At each; any numbers that can be added up over layers.
        costs: At each, >= 0: multiplications, milliseconds as measured, bytes.

    Raises:
        PruneError: If they differ in length, are none, or are not finite, or costs are negative.
    """

    amounts: tuple[float, ...]
    losses: tuple[float, ...]
    costs: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.amounts) == len(self.losses) == len(self.costs) > 0:
            raise PruneError(f"a table needs as many losses and costs as amounts, got {len(self.amounts)} amounts,"
                             f" {len(self.losses)} losses and {len(self.costs)} costs")  # fmt: skip
        if not all(map(math.isfinite, (*self.amounts, *self.losses, *self.costs))) or min(self.costs) < 0:
            raise PruneError("a table's losses and costs must be finite, and its costs 0 or more")


def choose(tables: Mapping[str, Table], budget: float) -> dict[str, float]:
    """One amount a layer such that losses add up to the least that costs within a budget allow.

    Dynamic programming over layers and buckets of cost, so tables need not be convex, nor costs fall with amounts.

    Args:
        tables: By layer.
        budget: Of the costs of all layers.

    Returns:
        Amount by layer; their costs come to no more than the budget.

    Raises:
        PruneError: If even the cheapest amounts cost more; its message has what can be reached.

    Reference:
        Frantar, Alistarh 2022, SPDY, https://arxiv.org/abs/2201.13096
    """
    least = sum(min(table.costs) for table in tables.values())
    if least > budget:
        raise PruneError(f"a cost of {budget:.6g} cannot be reached: the least is {least:.6g}")
    room = budget - least
    most = sum(max(table.costs) for table in tables.values()) - least
    if most <= room:  # nothing has to be bought: each layer takes what loses least
        return {name: table.amounts[min(range(len(table.losses)), key=table.losses.__getitem__)]
                for name, table in tables.items()}  # fmt: skip
    step = room / BUCKETS if room > 0 else 1.0
    best = torch.zeros(BUCKETS + 1, dtype=torch.float64)  # least loss by buckets spent at most
    picks: list[Tensor] = []
    sizes = []
    for table in tables.values():
        low = min(table.costs)
        spent = [round((cost - low) / step) for cost in table.costs]
        options = torch.full((len(spent), BUCKETS + 1), math.inf, dtype=torch.float64)
        for option, (size, loss) in enumerate(zip(spent, table.losses)):
            if size <= BUCKETS:
                options[option, size:] = best[: BUCKETS + 1 - size] + loss
        best, pick = options.min(0)
        picks.append(pick)
        sizes.append(spent)
    names = list(tables)
    for end in range(BUCKETS, -1, -1):  # rounding may have spent a little too much
        chosen, left = {}, end
        for index in range(len(names) - 1, -1, -1):
            option = int(picks[index][left])
            left -= sizes[index][option]
            chosen[names[index]] = option
        if sum(tables[name].costs[option] for name, option in chosen.items()) <= budget * (1 + 1e-12):
            break
    return {name: tables[name].amounts[chosen[name]] for name in names}


def interpolated(table: Table, amounts: Sequence[float]) -> Table:
    """Fill a table that was measured at a few amounts up to many; between two, losses are taken to grow geometrically.

    Args:
        table: Its amounts begin at 0.
        amounts: Increasing, from 0 to at most the table's largest.
    """
    losses, costs = [], []
    for amount in amounts:
        right = next(i for i, known in enumerate(table.amounts) if known >= amount - 1e-12)
        left = max(0, right - 1)
        span = table.amounts[right] - table.amounts[left]
        part = (amount - table.amounts[left]) / span if span else 1.0
        low, high = table.losses[left], table.losses[right]
        costs.append(table.costs[left] + part * (table.costs[right] - table.costs[left]))
        geometric = low > 0 and high > 0
        losses.append(low * (high / low) ** part if geometric else low + (high - low) * part**2)
    return Table(tuple(amounts), tuple(losses), tuple(costs))


def table_of(scores: Tensor, sizes: Tensor, uses: int, amounts: Sequence[float]) -> Table:
    """Make a layer's table from what each of its units loses: the lowest go first.

    Args:
        scores: Loss of each unit, [units], >= 0.
        sizes: Weights in each unit, [units].
        uses: Multiplications by each weight.
        amounts: Shares of the units, increasing.
    """
    order = scores.flatten().double().cpu().argsort()
    lost = torch.cat([torch.zeros(1, dtype=torch.float64), scores.flatten().double().cpu()[order].cumsum(0)])
    gone = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.flatten().cpu()[order].cumsum(0)])
    counts = [round(amount * len(order)) for amount in amounts]
    weights = int(gone[-1])
    return Table(tuple(amounts), tuple(float(lost[count]) for count in counts),
                 tuple(float((weights - int(gone[count])) * uses) for count in counts))  # fmt: skip
