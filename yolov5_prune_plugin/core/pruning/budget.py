"""A budget: the sparsest of many models whose figure may be no lower than a floor, found by bisection."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Optional

from yolov5_prune_plugin.errors import PruneError

ASSUMES = "bisection takes for granted that a sparser model is never better"


@dataclass(frozen=True)
class Trial:
    """One measurement of the search.

    Attributes:
        amount: Sparsity that was asked for, of weights or of multiplications; 0 is the dense model.
        sparsity: Zeros / weights of all Conv2d that came of it, or zeros / multiplications.
        score: The figure, in [0, 1].
        inside: Whether it is no lower than the floor.
        batch_size: Images in a batch.
        seconds: What it took, pruning included.
        kind: ``dense``, ``trial``, or ``confirmation``: the saved checkpoint, loaded again.
    """

    amount: float
    sparsity: float
    score: float
    inside: bool
    batch_size: Optional[int] = None
    seconds: float = 0.0
    kind: str = "trial"


@dataclass
class Bisection:
    """The largest of the amounts step, 2 step, ... < 1 that is inside, if all below one that is inside are too.

    Attributes:
        step: Distance of the amounts, in (0, 0.5].
        seen: What was told, by number of steps.

    Raises:
        PruneError: If the step is outside.
    """

    step: float
    seen: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.step <= 0.5:  # false for NaN too
            raise PruneError(f"step must be in (0, 0.5], got {self.step}")

    @property
    def best(self) -> float:
        """The largest amount that was told to be inside; 0 if none was."""
        return self._amount(self._low)

    @property
    def next(self) -> Optional[float]:
        """The amount to try next; None if no step lies between the best and the first outside."""
        low = self._low
        high = min((k for k, inside in self.seen.items() if not inside and k > low), default=self._steps + 1)
        return self._amount((low + high) // 2) if high - low > 1 else None

    def tell(self, amount: float, inside: bool) -> None:
        """Note what came out for an amount; it may be corrected later.

        Args:
            amount: That was tried.
            inside: Whether its figure is within the budget.
        """
        self.seen[round(amount / self.step)] = inside

    @property
    def _low(self) -> int:
        return max((k for k, inside in self.seen.items() if inside), default=0)

    @property
    def _steps(self) -> int:
        return math.ceil(round(1 / self.step, 6)) - 1

    def _amount(self, steps: int) -> float:
        return round(steps * self.step, 9)
