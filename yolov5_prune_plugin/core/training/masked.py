"""The one mask mechanism of training: optimizer hooks by which parameters hold W*T in forward and backward passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.training.masks import MaskState
from yolov5_prune_plugin.core.training.ranks import broadcast_masks
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.errors import PruneError, named

COUNTED = 200_000  # steps, at most, whose updates are counted ahead


class Masked(MaskState):
    """Weights that are multiplied by masks during forward and backward, and are whole only for the optimizer.

    Before each optimizer step the dense weights take the parameters' place (their storage, so nothing is copied); after
    it the rule may change masks, and the parameters hold weight times mask again. That is the straight-through form of
    Dynamic Network Surgery, bit for bit, without a trace in the model.

    Attributes:
        rule: Decides when and how masks change.
        field: What errors that come as the training begins are about, for whoever reads them.
        holds_dense: Whether the weights are kept whole for the optimizer even where no mask will change any more.
        on_begin: Called before the first optimizer step with the number of steps, and of updates of the masks.
    """

    holds_dense: ClassVar[bool] = False

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: Rule) -> None:
        super().__init__(parameters)
        self.rule = rule
        self.field: Optional[str] = None
        self.on_begin: Callable[[int, int], None] = lambda steps, updates: None
        self._total: Callable[[], int] = lambda: 1
        self._begun = False
        self._resting: dict[str, Tensor] = {}  # storage of W*T during an optimizer step
        self._handles: list[Any] = []

    @property
    def frozen(self) -> bool:
        """Whether masks will not change any more."""
        return self._begun and self.rule.frozen(self.step - 1)

    @torch.no_grad()
    def prepare(self, masks: Optional[Mapping[str, Tensor]] = None) -> None:
        """Let the rule prune before the first forward pass.

        Args:
            masks: To start from instead of keeping everything.
        """
        self.start_from(masks or {})
        self.check()
        self.count(self.rule.prepare(self))
        self._mask_all()

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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give all that ``load`` needs: tensors by name, and plain values, those of the rule too."""
        tensors, facts = super().state()
        return tensors, {**facts, "begun": self._begun, "rule": self.rule.state()}

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave, the rule too."""
        super().load(tensors, facts)
        self._begun = bool(facts["begun"])
        self.rule.load(facts["rule"])

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._begun:
            self._begin()
        for name, dense in self.dense.items():
            p = self.parameters[name]
            self._resting[name], p.data = p.data, dense

    @torch.no_grad()
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        dense = bool(self.dense)
        if not dense:
            self._mask_all()
        self.step += 1
        if self.rule.changes_at(self.step - 1):
            self.check()
            self.count(self.rule.update(self.step - 1, self))
            self.updates += 1
            if not dense:
                self._mask_all()
        for name, resting in self._resting.items():
            p = self.parameters[name]
            p.data = resting.copy_(self.masks[name]).mul_(p.data)  # a product of unlike types is four times as slow
        self._resting = {}
        if self.frozen and not self.holds_dense:
            self.dense = {}  # nothing can come back

    @torch.no_grad()
    def _begin(self) -> None:
        broadcast_masks(self.masks)  # a model that starts from noise has other masks on each rank
        self.kept = {name: int(mask.count_nonzero()) for name, mask in self.masks.items()}
        if self.rule.splices:
            self.dense = {name: p.detach().clone() for name, p in self.parameters.items()}
        with named(self.field):
            total = self._total()
            self.rule.begin(self, total)
        self._begun = True
        if total <= COUNTED:
            self.on_begin(total, sum(map(self.rule.changes_at, range(total))))

    def _mask_all(self) -> None:
        for name, p in self.parameters.items():
            self.zero_dropped(name, p.data)
