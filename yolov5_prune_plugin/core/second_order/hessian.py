"""A layer's inputs, unfolded, and the sums over them that second-order pruning needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.parameters import Layer
from yolov5_prune_plugin.errors import PruneError

BACKGROUND = 0.3  # what a position counts that does not matter at all, where one that matters as the mean counts 1


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
    """Mean and moments of a layer's columns, summed up image by image; memory does not grow with their number.

    The sums are of differences to the first image's mean, so that they stay exact where inputs hardly vary.
    """

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
        self._count = 0.0
        self._shift: Tensor | None = None  # [groups, K, 1]
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, inputs: Tensor, images: int = 1, position_weights: Sequence[Tensor | None] = ()) -> None:
        """Add a batch.

        Args:
            inputs: Of the layer; with four dimensions the first is that of the images.
            images: How many images there are in inputs of other dimensions.
            position_weights: Of each image, how much each output position matters [positions], >= 0 with a mean
                of 1; none, or None for an image, counts all alike.

        Raises:
            PruneError: If it has NaN or infinite values.
        """
        by_image = inputs.dim() == 4
        limit = self._positions * (1 if by_image else images)
        for index, image in enumerate(inputs.detach() if by_image else [inputs.detach()]):
            columns = unfold(self._layer, image.unsqueeze(0) if by_image else image).float()
            given = position_weights[index] if by_image and position_weights else None
            columns, counts = self._drawn(columns, given, limit)
            if self._shift is None:
                self._shift = columns.mean(2, keepdim=True)
            columns = columns - self._shift
            weighted = columns * counts
            squares = weighted @ columns.transpose(1, 2)
            if not bool(torch.isfinite(squares).all()):
                raise PruneError(f"inputs of {self._name} on the calibration images are not finite (NaN or infinite)")
            self._count += float(counts.sum())
            total = weighted.sum(2).double()
            self._sum = total if self._sum is None else self._sum.add_(total)
            self._squares = squares.double() if self._squares is None else self._squares.add_(squares)

    def _drawn(self, columns: Tensor, position_weights: Tensor | None, limit: int) -> tuple[Tensor, Tensor]:
        """At most ``limit`` of the columns, and how much each counts.

        Where there are more, they are drawn, likelier if they matter, and then count alike.
        """
        count = columns.shape[2]
        weights = None
        if position_weights is not None and len(position_weights) == count:
            weights = BACKGROUND + (1 - BACKGROUND) * position_weights.float()
        if count <= limit:
            return columns, columns.new_ones(count) if weights is None else weights.to(columns.device)
        if weights is None:
            chosen = torch.randperm(count, generator=self._generator)[:limit]
        else:
            chosen = torch.multinomial(weights, limit, replacement=True, generator=self._generator)
        return columns[:, :, chosen.to(columns.device)], columns.new_ones(limit)

    @property
    def mean(self) -> Tensor:
        """E[x], [groups, K], float64."""
        assert self._shift is not None, "nothing was added"
        assert self._sum is not None
        return self._shift.squeeze(2).double() + self._sum / self._count

    @property
    def covariance(self) -> Tensor:
        """E[x x^T] - E[x] E[x]^T, [groups, K, K], float64."""
        assert self._sum is not None, "nothing was added"
        assert self._squares is not None
        mean = self._sum / self._count
        return self._squares / self._count - mean.unsqueeze(2) * mean.unsqueeze(1)

    @property
    def second(self) -> Tensor:
        """E[x x^T], [groups, K, K], float64; half the Hessian of the layer's mean squared output error."""
        return self.covariance + self.mean.unsqueeze(2) * self.mean.unsqueeze(1)
