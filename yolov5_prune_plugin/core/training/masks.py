"""Weights under masks: what they are, what was dropped and came back, and all of it as tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.errors import NoResultError, PruneError

COUNTS = ("step", "updates", "pruned", "spliced")


class MaskState:
    """Parameters that hold weight times mask, their masks, and the dense weights where these may come back.

    Attributes:
        parameters: By name.
        masks: Bool by name, True where kept; all True at first.
        kept: How many weights each mask keeps.
        dense: Weights before masking, by name; empty unless dropped ones may come back.
        returned: Names of weights some of which came back since an average followed them.
        step: Optimizer steps done.
        updates: Mask updates done.
        pruned: Weights that were dropped since ``take_counts``.
        spliced: Weights that came back since ``take_counts``.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.masks = {  # row by row, also where weights are channels_last
            name: torch.ones(p.shape, dtype=torch.bool, device=p.device) for name, p in self.parameters.items()
        }
        self.kept = {name: p.numel() for name, p in self.parameters.items()}
        self.dense: dict[str, Tensor] = {}
        self.returned: set[str] = set()
        self.step = self.updates = self.pruned = self.spliced = 0

    @property
    def weights(self) -> int:
        """Number of weights under masks."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def sparsity(self) -> float:
        """Share of them that is dropped."""
        return 1 - sum(self.kept.values()) / self.weights

    def weight(self, name: str) -> Tensor:
        """Give a weight as a rule is to see it: dense if dropped ones may come back."""
        return self.dense.get(name, self.parameters[name].data)

    def zero_dropped(self, name: str, weight: Tensor) -> None:
        """Multiply a tensor by the mask of a weight, in place.

        Args:
            name: Of the weight.
            weight: Shaped like it, in any precision.
        """
        weight.mul_(self.masks[name].to(weight.dtype))

    def constrain(self, name: str, weight: Tensor) -> None:
        """Give a weight the form that it has between steps, in place: zeros where it is masked.

        Args:
            name: Of the weight.
            weight: Shaped like it, in any precision.
        """
        self.zero_dropped(name, weight)

    def unround_average(self, name: str, weight: Tensor) -> None:
        """Undo what ``constrain_average`` did that must not add up, in place, before an average is updated.

        Args:
            name: Of the weight.
            weight: Its average.
        """

    def constrain_average(self, name: str, weight: Tensor) -> None:
        """Give an average of a weight the form that the weight has, in place.

        Args:
            name: Of the weight.
            weight: Its average.
        """
        self.constrain(name, weight)

    def start_from(self, masks: Mapping[str, Tensor]) -> None:
        """Replace masks; the parameters are as they were until they are constrained."""
        for name, mask in masks.items():
            self.masks[name].copy_(mask)
            self.kept[name] = int(mask.count_nonzero())

    def count(self, counts: Mapping[str, Tensor]) -> None:
        """Note what a rule changed: by name, weights kept now, and how many of them came back."""
        if not counts:
            return
        for name, (kept, spliced) in zip(counts, torch.stack(list(counts.values())).tolist()):
            self.pruned += self.kept[name] + spliced - kept
            self.spliced += spliced
            self.kept[name] = kept
            if spliced:
                self.returned.add(name)

    def take_counts(self) -> tuple[int, int]:
        """Give the weights pruned and spliced since the last call, and begin to count anew."""
        counts, self.pruned, self.spliced = (self.pruned, self.spliced), 0, 0
        return counts

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Give what else is worth noting after an epoch."""
        return {}

    def check(self) -> None:
        """Stop if weights are not finite.

        Raises:
            NoResultError: If a weight is NaN or infinite; it names the layer.
        """
        sums = torch.stack([self.weight(name).sum() for name in self.parameters])
        if bool(torch.isfinite(sums).all()):
            return
        for name in self.parameters:
            if not bool(torch.isfinite(self.weight(name)).all()):
                raise NoResultError(
                    f"{name} has NaN or infinite weights after {self.step} optimizer steps; masks were left as they"
                    " are. Lower the learning rate, or prune less or more slowly"
                )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give all that ``load`` needs: tensors by name, and plain values."""
        tensors = {f"mask/{name}": mask for name, mask in self.masks.items()}
        tensors.update({f"dense/{name}": dense.contiguous() for name, dense in self.dense.items()})
        return tensors, {name: getattr(self, name) for name in COUNTS}

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave; the parameters get their dense weights times the masks.

        Args:
            tensors: By name.
            facts: Plain values.

        Raises:
            PruneError: If the tensors are not those of these weights.
        """
        wanted = {f"mask/{name}": p.shape for name, p in self.parameters.items()}
        for name, shape in wanted.items():
            if name not in tensors or tensors[name].shape != shape:
                raise PruneError(f"it has no {name} of shape {tuple(shape)}")
        for name in COUNTS:
            setattr(self, name, int(facts[name]))
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.masks[name] = tensors[f"mask/{name}"].to(p.device, torch.bool)
                self.kept[name] = int(self.masks[name].count_nonzero())
                if f"dense/{name}" in tensors:
                    self.dense[name] = torch.empty_like(p).copy_(tensors[f"dense/{name}"])
                    p.copy_(self.dense[name])
                self.zero_dropped(name, p.data)
