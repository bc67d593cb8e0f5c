"""Dynamic Network Surgery as a rule: when masks are updated, with which thresholds, and when they are frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

import torch
from torch import Tensor

from yolov5_prune_plugin.core.pruning.granularity import Granularity, nm_mask
from yolov5_prune_plugin.core.training.masks import MaskState
from yolov5_prune_plugin.core.training.rule import ENOUGH, Rule
from yolov5_prune_plugin.core.training.schedule import Window, cubic, drawn, update_probability
from yolov5_prune_plugin.core.training.splice import splice, trim
from yolov5_prune_plugin.core.training.thresholds import Hysteresis, first_threshold, gain, paper_threshold, steer


@dataclass
class DnsRule(Rule):
    """Prunes and splices with a probability that falls, group of layers by group, then freezes the masks.

    Attributes:
        groups: Names of the weights, in groups that have their turn one after the other.
        start: First step, as ``Window.of`` has it.
        stop: Where masks are frozen.
        c_rates: The paper's mode: c_rate by name. Thresholds stay as they are at a group's first step.
        drops: Mode of a target instead: called with the dense weights at the first step, gives how many units each
            loses in the end. Thresholds are steered there, and masks trimmed to exactly that when they are frozen.
        hysteresis: Factors of the two thresholds.
        gamma: Of the probability (1 + gamma * t)^-power.
        power: The same.
        seed: Of the draws.
        enough: As in ``Rule``.
        grain: What goes and comes back together: thresholds are compared with the mean |w| of each unit. A pattern N:M
            has no thresholds; a weight that is out must beat one that is in by the ratio of the hysteresis.
        channel_groups: Groups of grouped convolutions, by name; 1 for those that it lacks.
    """

    splices: ClassVar[bool] = True

    groups: Sequence[Sequence[str]]
    start: float = 0.0
    stop: float = 1.0
    c_rates: Optional[Mapping[str, float]] = None
    drops: Optional[Callable[[Mapping[str, Tensor]], Mapping[str, int]]] = None
    hysteresis: Hysteresis = Hysteresis()
    gamma: float = 1e-3
    power: float = 1.0
    seed: int = 0
    enough: int = ENOUGH
    grain: Granularity = Granularity("weight")
    channel_groups: Mapping[str, int] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list, init=False)
    thresholds: dict[str, float] = field(default_factory=dict, init=False)
    lost: dict[str, int] = field(default_factory=dict, init=False)  # units by name, in the mode of a target

    def begin(self, masked: MaskState, total: int) -> None:
        """Lay out the windows, and say how much each layer loses."""
        self.windows = Window.of(self.start, self.stop, total).split(len(self.groups))
        if self.drops:
            self.lost = dict(self.drops({name: masked.weight(name) for name in masked.masks}))

    def changes_at(self, step: int) -> bool:
        """By chance; at the last step of a group's turn always."""
        window = self._turn(step)[0]
        if window is None:
            return False
        chance = update_probability(step - window.start, self.gamma, self.power)
        return step == window.stop - 1 or drawn(self.seed, step) < chance

    def update(self, step: int, masked: MaskState) -> Mapping[str, Tensor]:
        """One update of the group whose turn it is."""
        window, names = self._turn(step)
        assert window is not None
        return {name: self._update(name, step, window, masked) for name in names}

    def frozen(self, step: int) -> bool:
        """After the last step of the last window."""
        return bool(self.windows) and step >= self.windows[-1].stop - 1

    def state(self) -> dict[str, Any]:
        """Windows, thresholds and targets."""
        windows = [[window.start, window.stop] for window in self.windows]
        return {"windows": windows, "thresholds": self.thresholds, "lost": self.lost}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self.windows = [Window(*window) for window in state["windows"]]
        self.thresholds, self.lost = dict(state["thresholds"]), dict(state["lost"])

    def _turn(self, step: int) -> tuple[Optional[Window], Sequence[str]]:
        for window, names in zip(self.windows, self.groups):
            if window.start <= step < window.stop:
                return window, names
        return None, ()

    def _update(self, name: str, step: int, window: Window, masked: MaskState) -> Tensor:
        mask, magnitude = masked.masks[name], masked.weight(name).abs()
        if self.grain.kind == "weight":
            return self._update_units(name, mask, magnitude, step, window, masked.kept[name])
        if self.grain.m:
            updated = self._pattern(mask, magnitude, step, window)
        else:
            groups = self.channel_groups.get(name, 1)
            units = self.grain.kept_units(mask, groups)
            scores = self.grain.unit_scores(magnitude, groups)
            if self.grain.rows:
                scores = scores / self.grain.unit_sizes(mask, groups)
            self._update_units(name, units, scores, step, window, int(units.count_nonzero()))
            updated = self.grain.to_weights(units, mask, groups)
        spliced = (updated & ~mask).count_nonzero()
        mask.copy_(updated)
        return torch.stack([mask.count_nonzero(), spliced])

    def _update_units(self, name: str, mask: Tensor, magnitude: Tensor, step: int, window: Window, kept: int) -> Tensor:
        """Update a mask of units in place; returns as ``splice``."""
        if self.c_rates is not None:
            if name not in self.thresholds:
                self.thresholds[name] = paper_threshold(magnitude, self.c_rates[name])
        else:
            drop = self.lost[name]
            if step == window.stop - 1:
                return trim(mask, magnitude, mask.numel() - drop)
            if name not in self.thresholds:
                self.thresholds[name] = first_threshold(magnitude, drop)
            else:
                wanted = mask.numel() * (1 - cubic(step, window, drop / mask.numel()))
                exponent = gain(window.stop - window.start, self.gamma, self.power)
                self.thresholds[name] = steer(self.thresholds[name], kept, wanted, mask.numel(), exponent)
        threshold = self.thresholds[name]
        return splice(mask, magnitude, self.hysteresis.lower * threshold, self.hysteresis.upper * threshold)

    def _pattern(self, mask: Tensor, magnitude: Tensor, step: int, window: Window) -> Tensor:
        final = 1 - self.grain.n / self.grain.m
        now = self.grain.on_the_way(1.0 if step == window.stop - 1 else cubic(step, window, final) / final)
        if now.n == now.m:
            return torch.ones_like(mask)
        ratio = 1.0 if step == window.stop - 1 else self.hysteresis.upper / self.hysteresis.lower
        return nm_mask(torch.where(mask, magnitude * ratio, magnitude), now.n, now.m)
