"""Thresholds of Dynamic Network Surgery: from frozen statistics as in the paper, or steered to a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov5_prune_plugin.core.training.schedule import expected_updates
from yolov5_prune_plugin.errors import PruneError

FIRST = 0.05  # share of what a layer drops in the end that its first threshold is set to drop
TURNS = 20.0  # time constants of the controller in one training: fast enough to follow, slow enough not to jerk


@dataclass(frozen=True)
class Hysteresis:
    """How far lower and upper threshold are from the threshold itself.

    Attributes:
        lower: Factor of the lower, in (0, 1].
        upper: Factor of the upper, at least 1.

    Raises:
        PruneError: If they are out of range.
    """

    lower: float = 0.9
    upper: float = 1.1

    def __post_init__(self) -> None:
        if not 0 < self.lower <= 1 <= self.upper < math.inf:
            raise PruneError(
                f"hysteresis factors must be 0 < lower <= 1 <= upper, got {self.lower:g} and {self.upper:g}"
            )


def paper_threshold(magnitude: Tensor, c_rate: float) -> float:
    """max(mu + c_rate * sigma, 0): mu is the mean of the non-zero |w|, sigma their standard deviation around it.

    Args:
        magnitude: |W| of a layer, any shape.
        c_rate: Any number; about half of the weights of a layer are below at 0.

    Returns:
        The threshold, 0 if the layer has no weight but zeros.

    Reference:
        Guo et al. 2016, https://arxiv.org/abs/1608.04493, and the authors' code
    """
    values = magnitude[magnitude > 0].double()
    if not values.numel():
        return 0.0
    mean = values.mean()
    sigma = (values - mean).square().mean().sqrt()
    return max(float(mean + c_rate * sigma), 0.0)


def first_threshold(magnitude: Tensor, drop: int) -> float:
    """Where a controller starts: the |w| below which a twentieth of the weights that are to go lies; never 0.

    Args:
        magnitude: |W| of a layer, any shape.
        drop: How many weights the layer loses in the end.
    """
    values = magnitude.reshape(-1)
    rank = min(values.numel(), max(1, math.ceil(FIRST * drop)))
    threshold = float(torch.topk(values, rank, largest=False).values.max())  # kthvalue is refused on GPUs by train.py
    if threshold > 0:
        return threshold
    positive = values[values > 0]
    return float(positive.min()) if positive.numel() else torch.finfo(values.dtype).tiny


def gain(steps: int, gamma: float, power: float) -> float:
    """Choose the exponent of ``steer`` for a training in which masks are updated now and then.

    Args:
        steps: Optimizer steps during which masks change.
        gamma: Of ``schedule.update_probability``.
        power: Of ``schedule.update_probability``.

    Returns:
        In [0.0005, 0.5].
    """
    return min(0.5, max(5e-4, TURNS / expected_updates(steps, gamma, power)))


def steer(threshold: float, kept: int, wanted: float, weights: int, exponent: float) -> float:
    """Raise a threshold if more is kept than wanted, lower it if less.

    It is multiplied by (odds wanted / odds now)^exponent, where odds are dropped / kept weights. A layer of few dropped
    weights has a number of them about proportional to the threshold, one of few kept weights much more than that, so
    the exponent is a share of the way in one case and somewhat more in the other. (In the second it is
    (kept / wanted)^exponent.)

    Args:
        threshold: The one so far, > 0.
        kept: Weights kept now.
        wanted: Weights that should be.
        weights: Weights there are.
        exponent: How quickly; one update changes the threshold at most twofold.
    """
    now = max(weights - kept, 1) / max(kept, 1)
    then = max(weights - wanted, 1.0) / max(wanted, 1.0)
    factor: float = (then / now) ** exponent
    return threshold * min(2.0, max(0.5, factor))
