"""What a detector's outputs say, whatever their form: whoever knows a family of detectors registers how it reads them.

Nothing else in core looks into a model's outputs beyond "nested tensors".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Optional

from torch import Tensor


class Detections(ABC):
    """Detections before non-maximum suppression, as one table of rows, a row an anchor.

    Attributes:
        rows: Raw predictions [B, N, C] in float32: logits, and columns that are none.
        objectness: How likely there is an object at each row [B, N], in [0, 1].
        objectness_column: Which column of ``rows`` has the logit of it.
        parts: Ids of the output tensors that the rows are made of; the others stand beside them.
    """

    rows: Tensor
    objectness: Tensor
    objectness_column: int
    parts: frozenset[int]

    @abstractmethod
    def not_logits(self) -> Tensor:
        """Columns of ``rows`` that are no logits of probabilities, such as boxes: bool [C]."""

    @abstractmethod
    def arranged_like(self, outputs: Any) -> Any:
        """Arrange what another model gives in training mode in the form of these outputs.

        Raises:
            ValueError: If shapes don't fit.
        """


Reader = Callable[[Any], Optional[Detections]]
_readers: list[Reader] = []


def register_reader(reader: Reader) -> None:
    """Have outputs read by a function that gives None for a form that it does not know. Twice is as good as once."""
    if reader not in _readers:
        _readers.append(reader)


def detections_in(outputs: Any) -> Optional[Detections]:
    """Read a model's outputs in eval mode; None if nobody knows their form as that of a detector's."""
    return next((found for reader in _readers if (found := reader(outputs)) is not None), None)
