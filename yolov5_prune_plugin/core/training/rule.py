"""What decides when and how masks change during training; masked.py does the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from yolov5_prune_plugin.core.training.masked import Masked


class Rule:
    """Masks that stay as they are; the base of all others.

    Attributes:
        splices: Whether dropped weights may come back: then the dense weights are kept and trained too.
    """

    splices: ClassVar[bool] = False

    def prepare(self, masked: Masked) -> Mapping[str, Tensor]:
        """Before the first forward pass.

        Returns:
            As ``update``.
        """
        return {}

    def begin(self, masked: Masked, total: int) -> None:
        """Before the first optimizer step.

        Args:
            masked: Its weights are dense still.
            total: Optimizer steps of the whole training.
        """

    def changes_at(self, step: int) -> bool:
        """Whether masks may change after this optimizer step, counted from 0."""
        return False

    def update(self, step: int, masked: Masked) -> Mapping[str, Tensor]:
        """Change masks in place.

        Returns:
            By name, for each that may have changed: weights kept now, and how many of them came back.
        """
        return {}

    def frozen(self, step: int) -> bool:
        """Whether masks will not change after this optimizer step."""
        return True

    def state(self) -> dict[str, Any]:
        """Plain values that ``load`` goes on from after an interruption."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
