"""Where maps lie in memory: planes with zeros around, so that a tap of a convolution is one offset for every pixel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from yolov5_prune_plugin.core.runtime.graph import Convolution, Graph, Value

ALIGN = 16  # floats: one line of the cache
TILE = 256  # floats that a tile has at most; so many may be read or written after a plane's last row


@dataclass(frozen=True)
class Layout:
    """Planes of maps of one height and width.

    Attributes:
        height: Rows.
        width: Columns.
        columns: Zeros after each row; they are the ones before the next row, too.
        rows: Rows of zeros above and below.
    """

    height: int
    width: int
    columns: int = 0
    rows: int = 0

    @property
    def pitch(self) -> int:
        """Floats from a row to the next."""
        return self.width + self.columns

    @property
    def pixels(self) -> int:
        """Floats from the first pixel to after the last row."""
        return self.height * self.pitch

    @property
    def origin(self) -> int:
        """Floats before the first pixel."""
        return _up(self.rows * self.pitch + self.columns)

    @property
    def plane(self) -> int:
        """Floats from a plane to the next: an odd number of lines, so that planes don't compete for the same ones."""
        return odd_lines(self.origin + self.pixels + max(self.rows * self.pitch + self.columns, TILE))

    def mask(self) -> np.ndarray:
        """[pixels + TILE] int32: all ones where there is a pixel."""
        mask = np.zeros(_up(self.pixels + TILE), np.int32)
        mask[: self.pixels].reshape(self.height, self.pitch)[:, : self.width] = -1
        return mask


def _up(floats: int) -> int:
    return -(-floats // ALIGN) * ALIGN


def odd_lines(floats: int) -> int:
    """Rounded up to an odd number of cache lines."""
    return _up(floats) + (ALIGN if _up(floats) // ALIGN % 2 == 0 else 0)


def is_direct(convolution: Convolution, inputs: Iterable[Value]) -> bool:
    """Whether it reads its source as it lies, and not a packed copy.

    Args:
        convolution: Which.
        inputs: Of the graph; these lie as torch has them.
    """
    same = convolution.source.shape[2:] == convolution.target.shape[2:]
    return same and convolution.stride == (1, 1) and convolution.source not in inputs


def reach(convolution: Convolution) -> tuple[int, int]:
    """Rows and columns from the first tap to the last."""
    size, dilation = convolution.weight.shape[2:], convolution.dilation
    return (size[0] - 1) * dilation[0], (size[1] - 1) * dilation[1]


def layouts(graph: Graph) -> dict[tuple[int, int], Layout]:
    """Of all heights and widths: with the zeros that the convolutions there need."""
    needed: dict[tuple[int, int], tuple[int, int]] = {}

    def need(size: tuple[int, ...], rows: int, columns: int) -> None:
        before = needed.get((size[0], size[1]), (0, 0))
        needed[size[0], size[1]] = max(before[0], rows), max(before[1], columns)

    for operation in graph.operations:
        for value in [*operation.inputs(), getattr(operation, "target", None)]:
            if value is not None and value.is_map:
                need(value.shape[2:], 0, 0)
        if isinstance(operation, Convolution):
            (down, right), (above, left) = reach(operation), operation.padding
            if is_direct(operation, graph.inputs):
                need(operation.target.shape[2:], max(above, down - above), max(left, right - left))
            else:
                need(operation.target.shape[2:], 0, right // operation.stride[1])
    return {size: Layout(*size, columns, rows) for size, (rows, columns) in needed.items()}
