"""Which layer of a model does what no native kernel can."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Outputs(nn.Module):
    """A model without what only training needs of its outputs.

    Args:
        model: In eval mode.
        task: The folder of its scripts.
    """

    def __init__(self, model: nn.Module, task: str) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.eval()

    def forward(self, images: Tensor) -> Any:
        """Detections; of a segmenter the prototypes of the masks, too; of a classifier the scores.

        Args:
            images: [B, 3, H, W].
        """
        found = self.model(images)
        if self.task == "classify/":
            return found if isinstance(found, Tensor) else found[0]
        return (found[0], found[1]) if self.task == "segment/" else found[0]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, wanted: str, where: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted, self.where = wanted, where
        self.found: Optional[str] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1].rstrip("_")
        if self.found is None and name == self.wanted and self.where:
            self.found = self.where[-1]
        return func(*args, **(kwargs or {}))


def layer_with(model: nn.Module, operation: str, images: Tensor) -> str:
    """Name the first layer that does an operation, with its class; empty if none is seen to.

    Args:
        model: In eval mode.
        operation: As torch's aten names it.
        images: To run it on.
    """
    where: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        label = f"{name} ({type(module).__name__})" if name else type(module).__name__
        hooks.append(module.register_forward_pre_hook(lambda *_, label=label: where.append(label)))
        hooks.append(module.register_forward_hook(lambda *_: where.pop() and None))
    try:
        with torch.no_grad(), _Watch(operation.rstrip("_"), where) as watch:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return watch.found or ""
