"""Schedules: optimizer step -> sparsity, or -> the probability that masks are updated at it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from yolov5_prune_plugin.core.pruning.distribution import check_sparsity
from yolov5_prune_plugin.errors import PruneError


@dataclass(frozen=True)
class Window:
    """Optimizer steps from ``start`` to ``stop``; masks change at none before and at none after.

    Attributes:
        start: The first step, counted from 0.
        stop: The step at which they are frozen.

    Raises:
        PruneError: If it does not stop after it starts.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise PruneError(f"masks must stop changing after they start, got start {self.start} and stop {self.stop}")

    @classmethod
    def of(cls, start: float, stop: float, total: int) -> Window:
        """From shares of the training up to 1, or numbers of steps above 1.

        Args:
            start: 0.05 is a twentieth of the training, 50 is step 50.
            stop: The same.
            total: Optimizer steps of the training.

        Raises:
            PruneError: If it does not stop after it starts, or later than the training.
        """
        first, last = (round(point * total if point <= 1 else point) for point in (start, stop))
        if last > total:
            raise PruneError(f"masks would be frozen at step {last}, but the training has {total} optimizer steps")
        if start < stop <= 1:  # a short training may have no step between them
            last = max(last, 1)
            first = min(first, last - 1)
        return cls(first, last)

    def split(self, parts: int) -> list[Window]:
        """As many windows, one after the other.

        Raises:
            PruneError: If there are fewer steps than parts.
        """
        steps = self.stop - self.start
        if parts > steps:
            raise PruneError(f"{parts} groups of layers in turn need {parts} steps, got {steps}")
        edges = [self.start + steps * part // parts for part in range(parts + 1)]
        return [Window(*edge) for edge in zip(edges, edges[1:])]


def cubic(step: int, window: Window, final: float, initial: float = 0.0) -> float:
    """Sparsity that rises fast at first and slowly at the end: s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3.

    Args:
        step: Optimizer step.
        window: From t_0 to t_1; before and after, it stays ``initial`` and ``final``.
        final: Sparsity from ``window.stop`` on, in [0, 1).
        initial: Sparsity up to ``window.start``, in [0, 1).

    Raises:
        PruneError: If a sparsity is out of range.

    Reference:
        Zhu, Gupta 2017, https://arxiv.org/abs/1710.01878
    """
    check_sparsity(final)
    check_sparsity(initial)
    done = (step - window.start) / (window.stop - window.start)
    if done >= 1:
        return final
    return final + (initial - final) * (1 - max(done, 0.0)) ** 3


def update_probability(step: int, gamma: float, power: float) -> float:
    """How likely masks are updated: (1 + gamma * step)^-power.

    Args:
        step: Steps since the masks started to change.
        gamma: At least 0; 0 updates at every step.
        power: At least 0; the same.

    Reference:
        Guo et al. 2016, https://arxiv.org/abs/1608.04493, and the authors' code
    """
    return float((1 + gamma * step) ** -power)


def expected_updates(steps: int, gamma: float, power: float) -> float:
    """Compute how many updates are to be expected; at least 1.

    Args:
        steps: Optimizer steps.
        gamma: Of ``update_probability``.
        power: Of ``update_probability``.
    """
    if gamma == 0 or power == 0:
        return float(max(1, steps))
    if math.isclose(power, 1):
        return max(1.0, math.log1p(gamma * steps) / gamma)
    return max(1.0, math.expm1((1 - power) * math.log1p(gamma * steps)) / (gamma * (1 - power)))


def drawn(seed: int, step: int) -> float:
    """Draw a number in [0, 1) that depends on seed and step only: the same on every rank, and after a resume.

    Args:
        seed: Of the training.
        step: Optimizer step.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}".encode()).digest()[:6], "big") / (1 << 48)
