"""Channel pruning of a model: groups, importance, allocation, repair and cut, in one step or several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.channels.allocation import Step, by_score, by_share, fewest, gone_after, steps
from yolov5_prune_plugin.core.channels.cost import Cost
from yolov5_prune_plugin.core.channels.cut import cut, readers, silence
from yolov5_prune_plugin.core.channels.groups import Channels, Group, find_channels
from yolov5_prune_plugin.core.channels.importance import BY_IMAGES, score_units
from yolov5_prune_plugin.core.channels.repair import Repaired, repair
from yolov5_prune_plugin.core.channels.sensitivity import by_loss, curves
from yolov5_prune_plugin.core.channels.widths import Widths, merged, widths_left
from yolov5_prune_plugin.core.outputs.images import Images
from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio
from yolov5_prune_plugin.errors import PruneError

WHAT = ("flops", "params", "latency")
SENSITIVITY_IMAGES, ROUNDS = 8, 15

Bar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class SlimConfig:
    """How a model is made slim.

    Attributes:
        what: The cost that is reduced, one of ``WHAT``.
        target: The share of the cost that is left, in (0, 1).
        importance: One of ``importance.IMPORTANCES``.
        allocation: One of ``allocation.ALLOCATIONS``.
        multiple: What widths are rounded to.
        floor: Least share of a group's units that stays, in (0, 1].
        steps: Number of steps; groups and importance are found anew in each.
        repair: Whether to repair after each step, if there are images.
        seed: Seed of all random choices.
    """

    what: str
    target: float
    importance: str = "l2"
    allocation: str = "global"
    multiple: int = 8
    floor: float = 0.25
    steps: int = 1
    repair: bool = True
    seed: int = 0


@dataclass(frozen=True)
class SlimPlan:
    """A model's channel groups and the order of removals; a target only says how many of these are made.

    Attributes:
        channels: Channel groups, and layers that are kept.
        order: All removals, in the order in which they are made.
    """

    channels: Channels
    order: list[Step]


@dataclass
class SlimResult:
    """What became of a model.

    Attributes:
        plan: Groups and order of removals of the dense model.
        before: ``flops`` and ``params`` of the dense model at the size of the example.
        after: The same of the slim model.
        widths: Units of each group before and after, by name of the group.
        latency: Measured share of the dense model's latency, if that was the target.
        repairs: One for each step, where there were images.
        layers: Channels that the layers have now, by name and side, as for ``widths.narrow``.
    """

    plan: SlimPlan
    before: dict[str, float]
    after: dict[str, float]
    widths: dict[str, tuple[int, int]] = field(default_factory=dict)
    latency: Optional[float] = None
    repairs: list[Repaired] = field(default_factory=list)
    layers: Widths = field(default_factory=Widths)

    @property
    def kept(self) -> dict[str, str]:
        """Layers whose outputs all stay, with the reason."""
        return self.plan.channels.kept


def no_bar(what: str, total: int) -> AbstractContextManager[Callable[[], None]]:
    """Show no progress.

    Args:
        what: Not looked at.
        total: Not looked at.
    """
    return nullcontext(lambda: None)


def slim(
    model: nn.Module, config: SlimConfig, example: Tensor, sized: Tensor, images: Optional[Images] = None,
    bar: Bar = no_bar, runnable: Callable[[nn.Module], nn.Module] = copy.deepcopy, plan: Optional[SlimPlan] = None,
) -> SlimResult:  # fmt: skip
    """Make a model slim, in place.

    Args:
        model: In eval mode, float32.
        config: Target, importance, allocation and the like.
        example: [1, 3, H, W], small: for tracing.
        sized: [1, 3, H, W]: FLOPs and latency are those at its size.
        images: Calibration images for importance, sensitivity and repair.
        bar: (what is done, how often) -> a context of what to call each time.
        runnable: Copies a model as it is used, for latency; BatchNorms may be folded into convolutions then.
        plan: From an equal model and the same config but for the target; it saves most of the time.

    Raises:
        PruneError: If the model can't be traced, nothing of it can be pruned, the target can't be reached, or images
            are needed and missing.
    """
    if config.importance in BY_IMAGES and not images:
        raise PruneError(f"importance {config.importance} looks at images, and there are none", "images")
    if config.allocation == "sensitivity" and not images:
        raise PruneError("allocation sensitivity looks at images, and there are none", "images")
    dense = copy.deepcopy(model)
    result: Optional[SlimResult] = None
    for number in range(1, config.steps + 1):
        if plan is None or number > 1:
            plan = _plan(model, config, example, sized, images, bar)
        groups = plan.channels.groups
        cost = Cost(model, groups, sized)
        result = result or SlimResult(plan, cost.of({}), {})
        share = config.target ** (number / config.steps)
        removed = _units_to_remove(model, dense, plan, config, share, cost, result, sized, bar, runnable)
        if images and config.repair and any(removed.values()):
            work = copy.deepcopy(model)
            with bar("repair", len(readers(groups, removed)) + 4) as advance:
                result.repairs.append(repair(model, work, groups, removed, images, config.seed, advance))
            model.load_state_dict(work.state_dict())
        else:
            silence(model, groups, removed)
        result.after = cost.of(removed)  # before its layers shrink
        cut(model, groups, removed)
        result.layers = merged(result.layers, widths_left(model, groups))
        for group in groups:
            before = result.widths.get(group.name, (group.units, 0))[0]
            result.widths[group.name] = before, group.units - len(removed.get(group.name, ()))
    assert result is not None
    return result


def _plan(
    model: nn.Module, config: SlimConfig, example: Tensor, sized: Tensor, images: Optional[Images], bar: Bar
) -> SlimPlan:
    total = sum(isinstance(m, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)) for m in model.modules())
    with bar("tracing", total) as advance:
        found = find_channels(model, example, advance)
    groups = found.groups
    if not groups:
        reasons = "; ".join(sorted(set(found.kept.values()))[:3])
        raise PruneError(f"nothing of this model can be removed: {reasons or 'it has no convolutions'}")
    with bar(f"importance {config.importance}", len(images) if images else 0) as advance:
        singles = (image.to(sized.device) for image in images.singles()) if images else iter(())
        scores = score_units(model, groups, config.importance, singles, config.seed, advance)
    if config.allocation == "sensitivity":
        assert images is not None
        some = [images[[i]].to(sized.device) for i in range(min(SENSITIVITY_IMAGES, len(images)))]
        with bar("sensitivity", len(groups)) as advance:
            points = curves(model, groups, scores, config.multiple, config.floor, some, advance)
        cost, kind = Cost(model, groups, sized), "params" if config.what == "params" else "flops"
        whole = cost.of({})[kind]
        priority = by_loss(points, lambda group, units: 1 - cost.of({group.name: units})[kind] / whole)
    else:
        priority = by_share if config.allocation == "uniform" else by_score(scores)
    return SlimPlan(found, steps(groups, scores, config.multiple, config.floor, priority))


def _units_to_remove(
    model: nn.Module, dense: nn.Module, plan: SlimPlan, config: SlimConfig, share: float, cost: Cost,
    result: SlimResult, sized: Tensor, bar: Bar, runnable: Callable[[nn.Module], nn.Module],
) -> dict[str, list[int]]:  # fmt: skip
    if config.what == "latency":
        measured = _latency(model, dense, plan.channels.groups, sized, runnable, result, bar)
    else:
        measured = lambda removed: cost.of(removed)[config.what] / result.before[config.what]  # noqa: E731
    removed = gone_after(plan.order, fewest(plan.order, measured, share, config.what))
    if config.what == "latency":
        measured(removed)
    return removed


def _latency(
    model: nn.Module, dense: nn.Module, groups: Sequence[Group], sized: Tensor,
    runnable: Callable[[nn.Module], nn.Module], result: SlimResult, bar: Bar,
) -> Callable[[dict[str, list[int]]], float]:  # fmt: skip
    whole = runnable(dense)

    @torch.no_grad()
    def share(removed: dict[str, list[int]]) -> float:
        smaller = copy.deepcopy(model)
        cut(smaller, groups, removed)
        used: Any = runnable(smaller)
        with bar("latency", ROUNDS) as advance:
            times = in_turns({"slim": lambda: used(sized), "dense": lambda: whole(sized)}, ROUNDS, progress=advance)
        result.latency = ratio(times["slim"], times["dense"])[0]
        return result.latency

    return share
