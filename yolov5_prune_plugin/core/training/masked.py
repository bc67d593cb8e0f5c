"""The one mask mechanism of training: parameters hold W*T, while dense W and masks T live outside the modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.training.ranks import broadcast_masks
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.errors import NoResultError, PruneError, named


class Masked:
    """Weights that are multiplied by masks during forward and backward, and are whole only for the optimizer.

    Before each optimizer step the dense weights take the parameters' place (their storage, so nothing is copied); after
    it the rule may change masks, and the parameters hold weight times mask again. That is the straight-through form of
    Dynamic Network DnsRule, bit for bit, without a trace in the model.

    Attributes:
        parameters: By name.
        rule: Decides when and how masks change.
        field: What errors that come as the training begins are about, for whoever reads them.
        masks: Bool by name, True where kept; all True at first.
        kept: How many weights each mask keeps.
        step: Optimizer steps done.
        updates: Mask updates done.
        pruned: Weights that were dropped since ``take_counts``.
        spliced: Weights that came back since ``take_counts``.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: Rule) -> None:
        self.parameters, self.rule = dict(parameters), rule
        self.field: Optional[str] = None
        self.masks = {  # row by row, also where weights are channels_last
            name: torch.ones(p.shape, dtype=torch.bool, device=p.device) for name, p in self.parameters.items()
        }
        self.kept = {name: p.numel() for name, p in self.parameters.items()}
        self.step = self.updates = self.pruned = self.spliced = 0
        self._total: Callable[[], int] = lambda: 1
        self._begun = False
        self._dense: dict[str, Tensor] = {}  # while the rule may splice
        self._resting: dict[str, Tensor] = {}  # storage of W*T during an optimizer step
        self._returned: set[str] = set()  # weights some of which came back since an average was updated
        self._handles: list[Any] = []

    @property
    def weights(self) -> int:
        """Weights under masks."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def sparsity(self) -> float:
        """Share of them that is dropped."""
        return 1 - sum(self.kept.values()) / self.weights

    @property
    def frozen(self) -> bool:
        """Whether masks will not change any more."""
        return self._begun and self.rule.frozen(self.step - 1)

    def weight(self, name: str) -> Tensor:
        """A weight as the rule is to see it: dense if it may come back."""
        return self._dense.get(name, self.parameters[name].data)

    def prepare(self, masks: Optional[Mapping[str, Tensor]] = None) -> None:
        """Let the rule prune before the first forward pass.

        Args:
            masks: To start from instead of keeping everything.
        """
        with torch.no_grad():
            for name, mask in (masks or {}).items():
                self.masks[name].copy_(mask)
                self.kept[name] = int(mask.count_nonzero())
            self._check()
            self._count(self.rule.prepare(self))
            self._apply()

    def attach(self, optimizer: torch.optim.Optimizer, total: Callable[[], int]) -> None:
        """Hang on an optimizer's steps.

        Args:
            optimizer: Must hold all the parameters.
            total: How many steps the whole training has; asked once, before the first.

        Raises:
            PruneError: If torch is older than 2.0, or the optimizer lacks one of the parameters.
        """
        if not hasattr(optimizer, "register_step_pre_hook"):
            raise PruneError(f"masks in training need torch 2.0 or later, whose optimizers have step hooks; this is"
                             f" torch {torch.__version__}")  # fmt: skip
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        lacking = [name for name, p in self.parameters.items() if id(p) not in held]
        if lacking:
            raise PruneError(f"the optimizer does not train {lacking[0]}")
        self._total = total
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def detach(self) -> None:
        """Leave the optimizer; the parameters keep weight times mask."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def take_counts(self) -> tuple[int, int]:
        """Weights pruned and spliced since the last call."""
        counts, self.pruned, self.spliced = (self.pruned, self.spliced), 0, 0
        return counts

    def check(self) -> None:
        """Stop if weights are not finite.

        Raises:
            NoResultError: If a weight is NaN or infinite; it names the layer.
        """
        with torch.no_grad():
            self._check()

    def average_follows(self, average: nn.Module) -> None:
        """Before an average of the weights is updated: what was spliced in starts at its weight, not at zero."""
        averages = dict(average.named_parameters())
        with torch.no_grad():
            for name in self._returned:
                p = averages[name].data
                new = self.masks[name] & (p == 0)
                p.copy_(torch.where(new, self.parameters[name].detach().to(p.dtype), p))
        self._returned.clear()

    def mask_average(self, average: nn.Module) -> None:
        """After an average of the weights is updated: exact zeros where the masks have them."""
        averages = dict(average.named_parameters())
        for name, mask in self.masks.items():
            averages[name].data.mul_(mask)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that ``load`` needs: tensors by name, and plain values."""
        tensors = {f"mask/{name}": mask for name, mask in self.masks.items()}
        tensors.update({f"dense/{name}": dense.contiguous() for name, dense in self._dense.items()})
        counts = {name: getattr(self, name) for name in ("step", "updates", "pruned", "spliced")}
        return tensors, {**counts, "begun": self._begun, "rule": self.rule.state()}

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave; the parameters get their dense weights times the masks.

        Raises:
            PruneError: If the tensors are not those of these weights.
        """
        wanted = {f"mask/{name}": p.shape for name, p in self.parameters.items()}
        for name, shape in wanted.items():
            if name not in tensors or tensors[name].shape != shape:
                raise PruneError(f"it has no {name} of shape {tuple(shape)}")
        for name in ("step", "updates", "pruned", "spliced"):
            setattr(self, name, int(facts[name]))
        self._begun = bool(facts["begun"])
        self.rule.load(facts["rule"])
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.masks[name] = tensors[f"mask/{name}"].to(p.device, torch.bool)
                self.kept[name] = int(self.masks[name].count_nonzero())
                if f"dense/{name}" in tensors:
                    self._dense[name] = torch.empty_like(p).copy_(tensors[f"dense/{name}"])
                    p.copy_(self._dense[name])
            self._apply()

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._begun:
            self._begin()
        for name, dense in self._dense.items():
            p = self.parameters[name]
            self._resting[name], p.data = p.data, dense

    @torch.no_grad()
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        dense = bool(self._dense)
        if not dense:
            self._apply()
        self.step += 1
        if self.rule.changes_at(self.step - 1):
            self._check()
            self._count(self.rule.update(self.step - 1, self))
            self.updates += 1
            if not dense:
                self._apply()
        for name, resting in self._resting.items():
            p = self.parameters[name]
            p.data = resting.copy_(self.masks[name]).mul_(p.data)  # a product of unlike types is four times as slow
        self._resting = {}
        if self.frozen:
            self._dense = {}  # nothing can come back

    @torch.no_grad()
    def _begin(self) -> None:
        broadcast_masks(self.masks)  # a model that starts from noise has other masks on each rank
        self.kept = {name: int(mask.count_nonzero()) for name, mask in self.masks.items()}
        if self.rule.splices:
            self._dense = {name: p.detach().clone() for name, p in self.parameters.items()}
        with named(self.field):
            self.rule.begin(self, self._total())
        self._begun = True

    def _apply(self) -> None:
        for name, p in self.parameters.items():
            p.data.mul_(self.masks[name].to(p.dtype))

    def _count(self, counts: Mapping[str, Tensor]) -> None:
        if not counts:
            return
        for name, (kept, spliced) in zip(counts, torch.stack(list(counts.values())).tolist()):
            self.pruned += self.kept[name] + spliced - kept
            self.spliced += spliced
            self.kept[name] = kept
            if spliced:
                self._returned.add(name)

    def _check(self) -> None:
        sums = torch.stack([self.weight(name).sum() for name in self.parameters])
        if bool(torch.isfinite(sums).all()):
            return
        for name in self.parameters:
            if not bool(torch.isfinite(self.weight(name)).all()):
                raise NoResultError(
                    f"{name} has NaN or infinite weights after {self.step} optimizer steps; masks were left as they"
                    " are. Lower the learning rate, or prune less or more slowly"
                )
