"""How far a changed model's outputs are from the original's, on the first inputs that it is given in use."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.objective import distance

IMAGES = 8


class Drift:
    """Compares a model with a copy of what it was, while a script uses it; it stops by itself after a few images.

    Attributes:
        value: ``distance`` over the images so far; None before the first.
    """

    def __init__(self, before: nn.Module, model: nn.Module) -> None:
        """Begin to watch.

        Args:
            before: A copy of the model as it was; let go once enough was seen.
            model: The changed model, in eval mode.
        """
        self.value: Optional[float] = None
        self._before: Optional[nn.Module] = before
        self._seen, self._total = 0, 0.0
        self._hook = model.register_forward_hook(self._note)

    def _note(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        before = self._before
        if before is None or not inputs or not _images(inputs[0]):
            return
        self._before = None  # the passes below come by here too
        x = inputs[0][: IMAGES - self._seen]
        with torch.no_grad():
            self._total += len(x) * float(distance(before.to(x.device, x.dtype)(x), model(x)))
            self._seen += len(x)
        self.value = self._total / self._seen
        if self._seen < IMAGES:
            self._before = before
        else:
            self._hook.remove()


def _images(x: Any) -> bool:
    """Whether these are images, and not zeros or noise to warm up with."""
    if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point() or not bool(x.isfinite().all()):
        return False
    return float(x.float().std()) > 1e-3 and float(x.abs().max()) < 1e3
