"""A share of the multiplications that is left: tables by layer of what it loses, and the amounts that lose least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.chooser import Table, choose, interpolated, table_of
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target
from yolov5_prune_plugin.core.pruning.sensitivity import Sensitivity
from yolov5_prune_plugin.core.pruning.sparsity import zeros_in
from yolov5_prune_plugin.errors import PruneError

FLOPS, LATENCY = "flops", "latency"
AMOUNTS = (0.0, *(round(1 - 0.94**step, 6) for step in range(1, 75)))  # up to 0.99


@dataclass(frozen=True)
class SpeedTarget:
    """How much is left of what a model costs.

    Attributes:
        what: ``flops`` (multiplications by weights) or ``latency`` (time in the sparse runtime on this machine).
        left: Share, in (0, 1).
    """

    what: str
    left: float

    def __str__(self) -> str:
        return f"{self.what}={self.left:g}"

    def facts(self) -> dict[str, object]:
        """Say it for a report, in place of a sparsity and a distribution."""
        return {"target": {self.what: self.left}, "distribution": self.what}


def tables_by_scores(
    targets: Iterable[Target], losses: Callable[[Target], Tensor], grain: Granularity, uses: Mapping[str, int]
) -> dict[str, Table]:
    """Make the table of each layer from what each of its weights loses, added up over units and over what goes.

    Args:
        targets: The layers.
        losses: Of one layer's weights, shaped like them, >= 0, comparable between layers.
        grain: What is dropped together.
        uses: How often each weight is used for one image, by name; a layer that is never used costs nothing.
    """
    tables = {}
    for target in targets:
        lost, weight = losses(target), target.weight
        sizes = grain.unit_sizes(weight, target.groups)
        units = grain.unit_scores(lost, target.groups)
        if grain.kind == "channel":  # scores of channels are means
            units = units * sizes
        amounts = [a for a in AMOUNTS if round(a * len(sizes)) < len(sizes)]  # a unit stays
        tables[target.name] = table_of(units, sizes, uses.get(target.name, 0), amounts)
    return tables


def tables_by_sensitivity(rows: Sequence[Sensitivity], uses: Mapping[str, int]) -> dict[str, Table]:
    """Make the table of each layer from the errors that were measured when it alone was pruned.

    Args:
        rows: Of ``sensitivity.sweep``; points that are not finite are left out.
        uses: How often each weight is used for one image, by name.
    """
    tables = {}
    for row in rows:
        points = {0.0: 0.0}
        for amount, error in zip(row.amounts, row.errors):
            if error < float("inf"):  # false for NaN too
                points[amount] = max(error, *points.values())
        multiplications = row.weights * uses.get(row.name, 0)
        shares = {0.0: 0.0, **dict(zip(row.amounts, row.shares))}
        measured = Table(
            tuple(points), tuple(points.values()), tuple((1 - shares[amount]) * multiplications for amount in points)
        )
        tables[row.name] = interpolated(measured, [a for a in AMOUNTS if a <= measured.amounts[-1]])
    return tables


def amounts_for(
    left: float, tables: Mapping[str, Table], model: nn.Module, selection: Selection, uses: Mapping[str, int]
) -> dict[str, float]:
    """Choose amounts by layer such that so much of the multiplications by weights is left, at the least loss.

    Args:
        left: Share of the multiplications of all layers, pruned or not, in (0, 1).
        tables: Of the layers that are pruned.
        model: Has the layers that are left alone too; these multiply by all weights that are not zero.
        selection: Which is which.
        uses: How often each weight is used for one image, by name.

    Returns:
        Amount by name of the pruned layers.

    Raises:
        PruneError: If so little cannot be reached; the message has what can.
    """
    weights = {name: model.get_parameter(name) for name in (*tables, *selection.skipped)}
    total = sum(weight.numel() * uses.get(name, 0) for name, weight in weights.items())
    if not total:
        raise PruneError("no layer is used in a forward pass, so there are no multiplications to save")
    fixed = sum((weights[name].numel() - zeros_in(weights[name])) * uses.get(name, 0) for name in selection.skipped)
    least = fixed + sum(min(table.costs) for table in tables.values())
    if least > left * total:
        stays = f", of which {fixed / total:.3f} are in layers that are left alone" if fixed else ""
        raise PruneError(f"a share of {left:g} of the multiplications cannot be reached: at least"
                         f" {least / total:.4f} is left{stays}")  # fmt: skip
    return choose(tables, left * total - fixed)


def amounts_for_time(
    left: float, tables: Mapping[str, Table], times: Callable[[str, Sequence[float]], Sequence[float]], rest: float
) -> tuple[dict[str, float], float]:
    """Choose amounts by layer such that so much of the time is left, at the least loss.

    Args:
        left: Share of the time of the whole model, in (0, 1).
        tables: Of the layers that are pruned; their own costs are not used.
        times: Milliseconds of a layer at amounts, by its name.
        rest: Milliseconds of all else.

    Returns:
        Amount by name, and milliseconds of the whole model with them.

    Raises:
        PruneError: If so little cannot be reached; the message has what can.
    """
    timed = {name: replace(table, costs=tuple(times(name, table.amounts))) for name, table in tables.items()}
    total = rest + sum(table.costs[0] for table in timed.values())
    least = rest + sum(min(table.costs) for table in timed.values())
    if least > left * total:
        raise PruneError(f"a share of {left:g} of the time cannot be reached: at least {least / total:.3f} of"
                         f" {total:.2f} ms is left; {rest / total:.3f} is not in layers that are pruned")  # fmt: skip
    chosen = choose(timed, left * total - rest)
    costs = {name: dict(zip(table.amounts, table.costs)) for name, table in timed.items()}
    return chosen, rest + sum(costs[name][amount] for name, amount in chosen.items())
