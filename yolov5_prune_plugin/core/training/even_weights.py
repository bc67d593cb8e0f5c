"""Weights that are evenly spaced while they train: rounded for forward and backward passes, whole for the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.coding.even import even_step
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.errors import PruneError


class EvenWeights(Masked):
    """Masked weights whose survivors are whole multiples of a step in each layer, at most 2^bits - 1 of them with zero.

    The dense weights take the parameters' place for each optimizer step, as they do where masks change, so the gradient
    of a rounded weight moves the one before rounding (the straight-through estimator). The step of a layer is that of
    the weights at the start; what grows beyond its largest multiple is held there. The average that upstream keeps is
    averaged unrounded, and rounded where upstream sees it.

    Attributes:
        bits: Of an index, by name.
        steps: Distance of two values by name; 0 for a layer of zeros.

    Reference:
        Courbariaux et al. 2015, https://arxiv.org/abs/1511.00363
    """

    holds_dense: ClassVar[bool] = True

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: Rule, bits: Mapping[str, int]) -> None:
        super().__init__(parameters, rule)
        self.bits = dict(bits)
        self.steps: dict[str, float] = {}
        self._averages: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}  # as they were rounded at first
        self._last: dict[str, Tensor] = {}  # and at the end of the last epoch

    def prepare(self, masks: Optional[Mapping[str, Tensor]] = None) -> None:
        """Mask the weights, and round what is left."""
        super().prepare(masks)
        with torch.no_grad():
            for name, p in self.parameters.items():
                largest = float(p.detach().abs().max()) if p.numel() else 0.0
                self.steps[name] = even_step(largest, self.bits[name], torch.float16)  # as checkpoints have it
                self.dense[name] = p.detach().clone()
                self.constrain(name, p.data)
                self._start[name] = self._last[name] = p.detach().clone()

    def figures(self) -> dict[str, float]:
        """As ``SharedWeights`` has them: values, and how far the weights moved since the start and the last call."""
        values = sum(len(torch.unique(p[p != 0])) for p in map(Tensor.detach, self.parameters.values()))
        found = {"values": values, "moved": self._moved(self._start), "moved_in_epoch": self._moved(self._last)}
        self._last = {name: p.detach().clone() for name, p in self.parameters.items()}
        return found

    def _moved(self, before: Mapping[str, Tensor]) -> float:
        change = sum(float((p.detach() - before[name]).square().sum()) for name, p in self.parameters.items())
        energy = sum(float(one.square().sum()) for one in before.values())
        return float((change / (energy or 1.0)) ** 0.5)

    def constrain(self, name: str, weight: Tensor) -> None:
        """Round to the multiples of the step, in place, and make zero what is masked."""
        step, most = self.steps[name], (1 << self.bits[name] - 1) - 1
        if step:
            rounded = (weight.float() / step).round_().clamp_(-most, most).mul_(step)
            weight.copy_(rounded)
        self.zero_dropped(name, weight)

    def unround_average(self, name: str, weight: Tensor) -> None:
        """Put the average back as it was before rounding."""
        if name in self._averages:
            weight.copy_(self._averages[name])

    def constrain_average(self, name: str, weight: Tensor) -> None:
        """Keep the average as it is, and round it."""
        self._averages[name] = weight.clone()
        self.constrain(name, weight)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give all that ``load`` needs: also steps, and the average before rounding."""
        tensors, facts = super().state()
        for name, step in self.steps.items():
            tensors[f"step/{name}"] = torch.tensor(step, dtype=torch.float64)
            tensors[f"start/{name}"] = self._start[name]
        tensors.update({f"average/{name}": average for name, average in self._averages.items()})
        return tensors, facts

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            PruneError: If the tensors are not those of these weights.
        """
        super().load(tensors, facts)
        with torch.no_grad():
            for name, p in self.parameters.items():
                step = tensors.get(f"step/{name}")
                if step is None or step.numel() != 1 or name not in self.dense:
                    raise PruneError(f"it has no step of {name}")
                self.steps[name] = float(step)
                self.constrain(name, p.data)
                if f"average/{name}" in tensors:
                    self._averages[name] = tensors[f"average/{name}"].to(p.device)
                self._last[name] = p.detach().clone()
                self._start[name] = tensors.get(f"start/{name}", p.detach()).to(p.device, p.dtype)

    @torch.no_grad()
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        super()._after(optimizer, args, kwargs)
        for name, p in self.parameters.items():
            self.constrain(name, p.data)
