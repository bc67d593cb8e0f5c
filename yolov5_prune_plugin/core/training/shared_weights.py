"""Weights that share values while they train: each is a member of a centroid, and the centroids are what learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.coding.codebook import BEST, Histogram, by_filter
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.errors import PruneError

GRADIENTS = ("mean", "sum")


class SharedWeights(Masked):
    """Masked weights whose survivors have few values.

    Before each optimizer step the gradients of a centroid's members are put in the place of each member's own: their
    sum, or their mean. All members then have one value, one gradient and one state in the optimizer, so any optimizer
    moves them alike, as if the centroid were its parameter. After it they are made equal again to the bit.

    With the sum a centroid's step grows with the number of its members, and so does the curvature that it sees: at a
    learning rate for single weights it diverges. The mean is the sum at a learning rate divided by that number; it is
    the gradient step of the weights themselves, projected to where members are equal.

    Attributes:
        bits: Of an index, by name.
        labels: Number of the centroid by name, shaped like the weight; the one behind the last for what is dropped.

    Reference:
        Han et al. 2015, section 3.3, https://arxiv.org/abs/1510.00149
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], rule: Rule, bits: Mapping[str, int], init: str = BEST,
        gradient: str = "mean",
    ) -> None:  # fmt: skip
        super().__init__(parameters, rule)
        self.bits, self.init, self.gradient = dict(bits), init, gradient
        self.labels: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}  # centroids as k-means gave them
        self._last: dict[str, Tensor] = {}  # and at the end of the last epoch
        self._first: dict[str, Tensor] = {}  # a member of each centroid
        self._members: dict[str, Tensor] = {}  # of each, and of what is dropped

    def prepare(self, masks: Optional[Mapping[str, Tensor]] = None) -> None:
        """Mask the weights, and give each survivor the value of its centroid."""
        super().prepare(masks)
        with torch.no_grad():
            for name, p in self.parameters.items():
                half = p.data.half()  # checkpoints are in fp16, which is faster to count
                weight = (half if torch.equal(half.to(p.dtype), p.data) else p.data).cpu()
                found = Histogram(weight, by_filter(weight)).cluster(self.bits[name], self.init)
                shared = found.weight.to(p.device, p.dtype)
                values: Tensor = torch.unique(shared[self.masks[name]])
                labels = torch.bucketize(shared, values).masked_fill(~self.masks[name], len(values))
                self._label(name, labels)
                p.data.copy_(shared)
                self.constrain(name, p.data)
                self._start[name] = self._last[name] = self._centroids(name)

    def figures(self) -> dict[str, float]:
        """Say how far the values moved, as a share of the root mean square of the weights, since the start and the last
        call."""
        now = {name: self._centroids(name) for name in self.parameters}
        found = {"values": sum(map(len, now.values())), "moved": self._moved(self._start, now),
                 "moved_in_epoch": self._moved(self._last, now)}  # fmt: skip
        self._last = now
        return found

    def _centroids(self, name: str) -> Tensor:
        found: Tensor = self.parameters[name].detach().reshape(-1)[self._first[name]].clone()
        return found

    def _moved(self, before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> float:
        change = energy = 0.0
        for name, centroids in now.items():
            members = self._members[name][: len(centroids)]
            change += float((members * (centroids - before[name]).square()).sum())
            energy += float((members * before[name].square()).sum())
        return float((change / (energy or 1.0)) ** 0.5)

    def constrain(self, name: str, weight: Tensor) -> None:
        """Make all members of a centroid what the first of them is, and the rest zero, in place."""
        self._spread(name, weight.reshape(-1)[self._first[name]], weight)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give all that ``load`` needs: also labels, and centroids as they are, not rounded to fp16."""
        tensors, facts = super().state()
        for name, labels in self.labels.items():
            tensors[f"label/{name}"] = labels
            tensors[f"centroid/{name}"] = self._centroids(name)
            tensors[f"start/{name}"] = self._start[name]
        return tensors, facts

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            PruneError: If the tensors are not those of these weights.
        """
        super().load(tensors, facts)
        with torch.no_grad():
            for name, p in self.parameters.items():
                labels, centroids = tensors.get(f"label/{name}"), tensors.get(f"centroid/{name}")
                if labels is None or centroids is None or labels.shape != p.shape:
                    raise PruneError(f"it has no labels of {name}")
                self._label(name, labels.to(p.device))
                self._spread(name, centroids.to(p.device, p.dtype), p.data)
                self._last[name] = self._centroids(name)
                self._start[name] = tensors.get(f"start/{name}", centroids).to(p.device, p.dtype)

    def _spread(self, name: str, values: Tensor, to: Tensor) -> None:
        """Each member gets the value of its centroid, what is dropped gets 0, in place."""
        to.copy_(torch.cat([values, values.new_zeros(1)])[self.labels[name].long()])

    def _label(self, name: str, labels: Tensor) -> None:
        self.labels[name] = labels.to(torch.int16).contiguous()
        flat = labels.reshape(-1).long()
        count = int(flat[self.masks[name].view(-1)].max()) + 1 if self.kept[name] else 0
        order = torch.argsort(flat, stable=True)
        self._members[name] = torch.bincount(flat, minlength=count + 1)
        ends = self._members[name].cumsum(0)
        self._first[name] = order[(ends - self._members[name])[:count]]

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        super()._before(optimizer, args, kwargs)
        for name, p in self.parameters.items():
            if p.grad is not None and len(self._first[name]):
                self._gather(name, p.grad)

    @torch.no_grad()
    def _gather(self, name: str, gradient: Tensor) -> None:
        labels, flat = self.labels[name].view(-1), gradient.reshape(-1)
        count = len(self._first[name])
        if flat.is_cuda:  # adding by index is in another order each time there, and ranks must agree
            sums = torch.stack([torch.where(labels == one, flat, 0).sum() for one in range(count)])
        else:
            sums = flat.new_zeros(count + 1).index_add_(0, labels.long(), flat)[:count]
        if self.gradient == "mean":
            sums = sums / self._members[name][:count]
        self._spread(name, sums, gradient)

    @torch.no_grad()
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        super()._after(optimizer, args, kwargs)
        for name, p in self.parameters.items():
            self.constrain(name, p.data)
