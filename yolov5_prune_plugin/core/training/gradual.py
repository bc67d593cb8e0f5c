"""Pruning in steps without splicing: gradual magnitude pruning, and prune and retrain in one round or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from torch import Tensor

from yolov5_prune_plugin.core.pruning.oneshot import Request, ScoreFunction, mask_of, units_to_drop
from yolov5_prune_plugin.core.pruning.parameters import Target
from yolov5_prune_plugin.core.training.masks import MaskState
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.core.training.schedule import Window, cubic

Plan = Callable[[int], Mapping[int, float]]  # optimizer steps of the training -> sparsity by step
STEPS = 100  # prunings of a gradual schedule, unless it says how many steps lie between them


@dataclass
class Gradual(Rule):
    """Prunes by scores at the steps of a plan; what was pruned once stays so.

    Attributes:
        targets: The weights.
        score: Importance of one of them; higher is kept.
        request: How it is spread and in what grain; its sparsity is the last of the plan's.
        plan: Sparsity by step.
        first: Sparsity before the first forward pass; None leaves the weights as they are.
        method: Instead of ``score``, prunes in place by itself: (targets, request).
        enough: As in ``Rule``.
    """

    targets: Sequence[Target]
    score: Optional[ScoreFunction]
    request: Request
    plan: Plan
    first: Optional[float] = None
    method: Optional[Callable[[Sequence[Target], Request], None]] = None
    enough: int = 0
    steps: dict[int, float] = field(default_factory=dict, init=False)
    begun: bool = field(default=False, init=False)

    def prepare(self, masked: MaskState) -> Mapping[str, Tensor]:
        """The first round, if it comes before all training."""
        return {} if self.first is None else self._prune(self.first, masked)

    def begin(self, masked: MaskState, total: int) -> None:
        """Lay out the plan."""
        self.steps, self.begun = dict(self.plan(total)), True

    def changes_at(self, step: int) -> bool:
        """At the steps of the plan."""
        return step in self.steps

    def update(self, step: int, masked: MaskState) -> Mapping[str, Tensor]:
        """One more round."""
        return self._prune(self.steps[step], masked)

    def frozen(self, step: int) -> bool:
        """After the last round."""
        return self.begun and step >= max(self.steps, default=-1)

    def state(self) -> dict[str, Any]:
        """The plan, and amounts by layer."""
        amounts = {"amounts": dict(self.request.amounts), "sparsity": self.request.sparsity}
        return {"steps": sorted(self.steps.items()), **(amounts if self.request.amounts else {})}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self.steps, self.begun = {int(step): sparsity for step, sparsity in state["steps"]}, True
        if "amounts" in state:
            self.request = replace(self.request, amounts=state["amounts"], sparsity=state["sparsity"])

    def _prune(self, sparsity: float, masked: MaskState) -> Mapping[str, Tensor]:
        request = self._request(sparsity)
        if request is None:
            return {}
        if self.method:
            self.method(self.targets, request)
            kept = {target.name: target.weight.detach() != 0 for target in self.targets}
        else:
            assert self.score is not None
            drop, score = units_to_drop(self.targets, self.score, request), self.score
            kept = {t.name: mask_of(t, score(t, request), drop, request.granularity) for t in self.targets}
        counts = {}
        for name, updated in kept.items():
            left = masked.masks[name].logical_and_(updated).count_nonzero()
            counts[name] = torch.stack([left, torch.zeros_like(left)])
        return counts

    def _request(self, sparsity: float) -> Optional[Request]:
        """The request of one round: amounts in proportion, N:M by way of wider patterns; None if nothing goes yet."""
        asked, grain = self.request, self.request.granularity
        part = sparsity / asked.sparsity if asked.sparsity else 1.0
        if grain.m:
            now = grain.on_the_way(part)
            return None if now.n == now.m else replace(asked, granularity=now, sparsity=1 - now.n / now.m)
        amounts = {name: min(amount * part, amount) for name, amount in asked.amounts.items()}
        return replace(asked, sparsity=sparsity, amounts=amounts)


def gradual_plan(start: float, stop: float, every: Optional[int], final: float) -> Plan:
    """The cubic schedule of gradual magnitude pruning.

    Args:
        start: First step, as ``Window.of`` has it.
        stop: The step after which the final sparsity is there.
        every: Steps between two prunings; by default a hundredth of them.
        final: Sparsity in the end.
    """

    def plan(total: int) -> dict[int, float]:
        window = Window.of(start, stop, total)
        between = every or max(1, (window.stop - window.start) // STEPS)
        steps = {step: cubic(step + 1, window, final) for step in range(window.start, window.stop, between)}
        return {**steps, window.stop - 1: final}

    return plan


def rounds(number: int, final: float) -> tuple[float, Plan]:
    """Plan rounds of pruning that each keep the same share of what is left, with training of equal length after each.

    Args:
        number: Of rounds, at least 1.
        final: Sparsity after the last, in [0, 1).

    Returns:
        The sparsity of the first round, before all training, and the plan of the others.
    """

    def sparsity(done: int) -> float:
        return final if done == number else 1 - (1 - final) ** (done / number)

    def plan(total: int) -> dict[int, float]:
        return {max(total * done // number - 1, done - 1): sparsity(done + 1) for done in range(1, number)}

    return sparsity(1), plan
