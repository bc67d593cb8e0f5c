"""PositionWeights: how much each output position of a layer matters to the detections, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class PositionWeights:
    """Notes, during backward passes of a scalar v, the mean of (dv / dy)^2 over a layer's output channels y.

    A context around passes of one image each. With the probes of ``objective.probe`` this is what a squared error at
    that position costs the outputs: most positions of a detector are background, where errors hardly matter, and a
    reconstruction that counts all positions alike spends itself on them.

    Attributes:
        maps: For each image, in the order of the passes, the map of each layer [positions] by parameter name, float16,
            scaled to a mean of 1. Layers whose output is no [1, C, H, W], or that got no gradient, are left out.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], images: int) -> None:
        """Prepare; nothing is hooked yet.

        Args:
            model: Its forward is called with one image at a time.
            names: Of weights of its layers.
            images: How many are noted; later ones are passed over.
        """
        self._model, self._names, self._images = model, tuple(names), images
        self._passes = 0
        self.maps: list[dict[str, Tensor]] = []

    def __enter__(self) -> PositionWeights:
        self._hooks = [self._model.register_forward_pre_hook(self._next)]
        for name in self._names:
            layer = self._model.get_submodule(name.rpartition(".")[0])
            self._hooks.append(layer.register_forward_hook(self._noting(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _next(self, *_: Any) -> None:
        self._passes += 1
        self._seen: set[str] = set()
        if self._passes <= self._images:
            self.maps.append({})

    def _noting(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def forward(_: nn.Module, __: Any, output: Tensor) -> None:
            fits = output.dim() == 4 and len(output) == 1 and output.requires_grad
            if self._passes > self._images or name in self._seen or not fits:
                return
            self._seen.add(name)  # of a layer that is used twice, the first use counts
            maps = self.maps[-1]
            output.register_hook(lambda gradient: _note(maps, name, gradient))  # type: ignore[no-untyped-call]

        return forward


def _note(maps: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    squares = gradient.detach().float().square().mean(1).flatten()
    mean = squares.mean()
    if bool(torch.isfinite(mean)) and bool(mean > 0):
        maps[name] = (squares / mean).clamp_max(6e4).half().cpu()
