"""What decides when and how masks change during training; masked.py does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from yolov5_prune_plugin.core.training.masks import MaskState

ENOUGH = 20  # updates that make a pruning gradual


class Rule:
    """Masks that stay as they are; the base of all others.

    Attributes:
        splices: Whether dropped weights may come back: then the dense weights are kept and trained too.
        enough: Updates of the masks below which this is a cut all at once; 0 if any number will do.
    """

    splices: ClassVar[bool] = False
    enough: int = 0

    def prepare(self, masked: MaskState) -> Mapping[str, Tensor]:
        """Change masks before the first forward pass; returns as ``update`` does."""
        return {}

    def begin(self, masked: MaskState, total: int) -> None:
        """Get ready, before the first optimizer step.

        Args:
            masked: The weights; they are dense still.
            total: Optimizer steps of the whole training.
        """

    def changes_at(self, step: int) -> bool:
        """Whether masks may change after this optimizer step, counted from 0."""
        return False

    def update(self, step: int, masked: MaskState) -> Mapping[str, Tensor]:
        """Change masks in place.

        Args:
            step: The optimizer step that was done, counted from 0.
            masked: The weights.

        Returns:
            By name, for each that may have changed: weights kept now, and how many of them came back.
        """
        return {}

    def frozen(self, step: int) -> bool:
        """Whether masks will not change after this optimizer step."""
        return True

    def state(self) -> dict[str, Any]:
        """Give plain values that ``load`` goes on from after an interruption."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
