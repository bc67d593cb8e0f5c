"""Calibration images kept in memory for many passes, a byte a value where that loses nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor


class Images:
    """Images of several shapes."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        """Take them over.

        Args:
            batches: [B, 3, H, W]; values k / 255, or any others, which are then kept as float16.
        """
        self._kept: list[Tensor] = []
        self._by_shape: dict[torch.Size, list[int]] = {}
        for batch in batches:
            for image in batch:
                self._by_shape.setdefault(image.shape, []).append(len(self._kept))
                self._kept.append(_packed(image))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, indices: list[int]) -> Tensor:
        """Images of one shape as a float32 batch."""
        batch = torch.stack([self._kept[index] for index in indices])
        return batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()

    def singles(self) -> Iterator[Tensor]:
        """One by one, [1, 3, H, W]."""
        for index in range(len(self)):
            yield self[[index]]

    def shapes(self, limit: int) -> list[list[int]]:
        """The first ``limit`` images by their shape: lists of indices, one a shape."""
        chosen = [[index for index in indices if index < limit] for indices in self._by_shape.values()]
        return [indices for indices in chosen if indices]

    def epochs(
        self, size: int, generator: torch.Generator, without: Collection[int] = (), side: int = 1 << 30
    ) -> Iterator[Tensor]:
        """Shuffled batches of one shape each, without end; each epoch has every image but those of ``without`` once.

        Args:
            size: Images in a batch; the last of a shape may be smaller.
            generator: Shuffles, and places the crops.
            without: Indices left out.
            side: Of an image that is higher or wider a random part of at most this height and width is taken.
        """
        shapes: dict[tuple[int, int], list[int]] = {}
        for (_, height, width), indices in self._by_shape.items():
            left = [index for index in indices if index not in without]
            shapes.setdefault((min(height, side), min(width, side)), []).extend(left)
        while True:
            batches = []
            for shape, indices in shapes.items():
                order = [indices[i] for i in torch.randperm(len(indices), generator=generator).tolist()]
                batches += [(shape, order[start : start + size]) for start in range(0, len(order), size)]
            for i in torch.randperm(len(batches), generator=generator).tolist():
                shape, chosen = batches[i]
                yield torch.cat([_part(self[[index]], shape, generator) for index in chosen])


def _part(image: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A random part of [1, 3, H, W]."""
    for dim, wanted in zip((-2, -1), shape):
        room = image.shape[dim] - wanted
        if room:
            image = image.narrow(dim, int(torch.randint(room + 1, (), generator=generator)), wanted)
    return image


def _packed(image: Tensor) -> Tensor:
    image = image.detach().float()
    levels = (image * 255).round()
    if bool(((levels >= 0) & (levels <= 255)).all()) and bool(((levels / 255 - image).abs() < 1e-3).all()):
        return levels.to(torch.uint8)
    return image.half()
