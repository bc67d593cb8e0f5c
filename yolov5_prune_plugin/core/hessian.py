"""A layer's inputs, unfolded, and the sums over them that second-order pruning needs."""

from __future__ import annotations

from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov5_prune_plugin.errors import PruneError

Layer = Union[nn.Conv2d, nn.Linear]


def unfold(layer: Layer, inputs: Tensor) -> Tensor:
    """The columns X that a layer multiplies its weight with: output = W X + bias, for every group of channels.

    Args:
        layer: A Conv2d of any kernel, stride, padding (mode), dilation and groups, or a Linear.
        inputs: [N, in, H, W] for a Conv2d, [..., in] for a Linear.

    Returns:
        [groups, K, positions] with K = in / groups * kernel height * kernel width, in the order of the weight.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, layer.in_features).T.unsqueeze(0)
    padding = _padding(layer)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, padding, mode=mode) if any(padding) else inputs
    columns = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)  # [N, in * kernel, positions]
    columns = columns.reshape(len(columns), layer.groups, -1, columns.shape[2])
    return columns.permute(1, 2, 0, 3).flatten(2)


def _padding(layer: nn.Conv2d) -> list[int]:
    """Left, right, top, bottom."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return [0, 0, 0, 0]
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size)]
        return [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    height, width = layer.padding
    return [int(width), int(width), int(height), int(height)]


class Moments:
    """Mean and second moment of a layer's columns, summed up image by image; memory does not grow with their number."""

    def __init__(self, layer: Layer, name: str, positions: int, seed: int = 0) -> None:
        """Start with nothing.

        Args:
            layer: The layer.
            name: For messages.
            positions: At most so many of an image's output positions are looked at, drawn by the seed.
            seed: Of the draw.
        """
        self._layer, self._name, self._positions = layer, name, positions
        self._generator = torch.Generator().manual_seed(seed)
        self._count = 0
        self._mean: Tensor | None = None
        self._second: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Add a batch.

        Raises:
            PruneError: If it has NaN or infinite values.
        """
        for image in inputs.detach() if inputs.dim() == 4 else [inputs.detach()]:
            columns = unfold(self._layer, image.unsqueeze(0) if inputs.dim() == 4 else image).float()
            if columns.shape[2] > self._positions:
                chosen = torch.randperm(columns.shape[2], generator=self._generator)[: self._positions]
                columns = columns[:, :, chosen.to(columns.device)]
            second = columns @ columns.transpose(1, 2)
            if not bool(torch.isfinite(second).all()):
                raise PruneError(f"inputs of {self._name} on the calibration images are not finite (NaN or infinite)")
            self._count += columns.shape[2]
            mean = columns.sum(2).double()
            self._mean = mean if self._mean is None else self._mean.add_(mean)
            self._second = second.double() if self._second is None else self._second.add_(second)

    @property
    def mean(self) -> Tensor:
        """E[x], [groups, K], float64."""
        assert self._mean is not None, "nothing was added"
        return self._mean / self._count

    @property
    def second(self) -> Tensor:
        """E[x x^T], [groups, K, K], float64; half the Hessian of the layer's mean squared output error."""
        assert self._second is not None, "nothing was added"
        return self._second / self._count
