"""From a dense model to a slim one: groups, importance, allocation, repair and cut, in one step or several."""

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
class Slimming:
    """What is wanted.

    Attributes:
        what: One of ``WHAT``.
        target: The share of it that is left, in (0, 1).
        importance: One of ``unit_importance.IMPORTANCES``.
        allocation: One of ``allocation.ALLOCATIONS``.
        multiple: Widths are rounded to it.
        floor: Share of a group's units that stays at least, in (0, 1].
        steps: In how many steps.
        repair: Whether to mend after each, if there are images.
        seed: Of what is drawn.
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
class Judged:
    """What is known of a model before anything of it is removed, whatever the target.

    Attributes:
        channels: Its groups.
        order: All removals, in the order in which they are made.
    """

    channels: Channels
    order: list[Step]


@dataclass
class Slimmed:
    """What was done.

    Attributes:
        widths: Units of each group before and after, by its name.
        judged: What was found of the dense model.
        layers: Channels that the layers have now, by name and side; what ``widths.narrow`` takes.
        before: ``flops``, ``params`` of the dense model at the size of the example.
        after: The same of the slim one.
        latency: Measured share of the dense model's, for a target of it.
        repairs: One a step, where there were images.
    """

    judged: Judged
    before: dict[str, float]
    after: dict[str, float]
    widths: dict[str, tuple[int, int]] = field(default_factory=dict)
    latency: Optional[float] = None
    repairs: list[Repaired] = field(default_factory=list)
    layers: Widths = field(default_factory=Widths)

    @property
    def kept(self) -> dict[str, str]:
        """Layers whose outputs stay all, and why."""
        return self.judged.channels.kept


def no_bar(what: str, total: int) -> AbstractContextManager[Callable[[], None]]:
    """Progress that nobody sees."""
    return nullcontext(lambda: None)


def slim(
    model: nn.Module, wanted: Slimming, example: Tensor, sized: Tensor, images: Optional[Images] = None,
    bar: Bar = no_bar, runnable: Callable[[nn.Module], nn.Module] = copy.deepcopy, judged: Optional[Judged] = None,
) -> Slimmed:  # fmt: skip
    """Make a model slim, in place.

    Args:
        model: In eval mode, float32.
        wanted: What is wanted.
        example: [1, 3, H, W], small: for tracing.
        sized: [1, 3, H, W]: FLOPs and latency are those at its size.
        images: For importance, sensitivity and repair.
        bar: (what is done, how often) -> a context of what to call each time.
        runnable: A copy of a model as it is used, for latency; upstream folds BatchNorms then.
        judged: Of an equal model with the same wishes, but for the target; it saves most of the time.

    Raises:
        PruneError: If the model can't be traced, nothing of it can be pruned, the target can't be reached, or images
            are needed and missing.
    """
    if wanted.importance in BY_IMAGES and not images:
        raise PruneError(f"importance {wanted.importance} looks at images, and there are none", "images")
    if wanted.allocation == "sensitivity" and not images:
        raise PruneError("allocation sensitivity looks at images, and there are none", "images")
    dense = copy.deepcopy(model)
    result: Optional[Slimmed] = None
    for number in range(1, wanted.steps + 1):
        if judged is None or number > 1:
            judged = _judge(model, wanted, example, sized, images, bar)
        groups = judged.channels.groups
        cost = Cost(model, groups, sized)
        result = result or Slimmed(judged, cost.of({}), {})
        share = wanted.target ** (number / wanted.steps)
        removed = _choose(model, dense, judged, wanted, share, cost, result, sized, bar, runnable)
        if images and wanted.repair and any(removed.values()):
            work = copy.deepcopy(model)
            with bar("repair", len(readers(groups, removed)) + 4) as advance:
                result.repairs.append(repair(model, work, groups, removed, images, wanted.seed, advance))
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


def _judge(
    model: nn.Module, wanted: Slimming, example: Tensor, sized: Tensor, images: Optional[Images], bar: Bar
) -> Judged:
    total = sum(isinstance(m, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)) for m in model.modules())
    with bar("tracing", total) as advance:
        found = find_channels(model, example, advance)
    groups = found.groups
    if not groups:
        reasons = "; ".join(sorted(set(found.kept.values()))[:3])
        raise PruneError(f"nothing of this model can be removed: {reasons or 'it has no convolutions'}")
    with bar(f"importance {wanted.importance}", len(images) if images else 0) as advance:
        singles = (image.to(sized.device) for image in images.singles()) if images else iter(())
        scores = score_units(model, groups, wanted.importance, singles, wanted.seed, advance)
    if wanted.allocation == "sensitivity":
        assert images is not None
        some = [images[[i]].to(sized.device) for i in range(min(SENSITIVITY_IMAGES, len(images)))]
        with bar("sensitivity", len(groups)) as advance:
            points = curves(model, groups, scores, wanted.multiple, wanted.floor, some, advance)
        cost, kind = Cost(model, groups, sized), "params" if wanted.what == "params" else "flops"
        whole = cost.of({})[kind]
        priority = by_loss(points, lambda group, units: 1 - cost.of({group.name: units})[kind] / whole)
    else:
        priority = by_share if wanted.allocation == "uniform" else by_score(scores)
    return Judged(found, steps(groups, scores, wanted.multiple, wanted.floor, priority))


def _choose(
    model: nn.Module, dense: nn.Module, judged: Judged, wanted: Slimming, share: float, cost: Cost, result: Slimmed,
    sized: Tensor, bar: Bar, runnable: Callable[[nn.Module], nn.Module],
) -> dict[str, list[int]]:  # fmt: skip
    if wanted.what == "latency":
        measured = _latency(model, dense, judged.channels.groups, sized, runnable, result, bar)
    else:
        measured = lambda removed: cost.of(removed)[wanted.what] / result.before[wanted.what]  # noqa: E731
    removed = gone_after(judged.order, fewest(judged.order, measured, share, wanted.what))
    if wanted.what == "latency":
        measured(removed)
    return removed


def _latency(
    model: nn.Module, dense: nn.Module, groups: Sequence[Group], sized: Tensor,
    runnable: Callable[[nn.Module], nn.Module], result: Slimmed, bar: Bar,
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
