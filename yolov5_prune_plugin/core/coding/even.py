"""Evenly spaced values, whole multiples of a step, as INT8 has them: how far apart, and whether weights have them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from yolov5_prune_plugin.errors import PruneError

EVEN_BITS = range(2, 9)  # an index of one bit would leave nothing but zero
MOST = 127  # the largest multiple: what INT8 has on both sides of zero
_OFF = 1e-4  # of a step, that a multiple of it may be off: what scaling in fp32 leaves


def even_step(largest: float, bits: int, dtype: torch.dtype) -> float:
    """Find the distance of evenly spaced values: 2^bits - 1 of them with zero, as many on each side of it.

    It has so few binary digits that each of its multiples is exact in the type that weights have in a file; that makes
    it up to 2^(bits - digits of the type) larger than it had to be, a sixteenth with 8 bits and fp16.

    Args:
        largest: Magnitude of a weight.
        bits: Bits of an index, 2 to 8.
        dtype: Of the weights.

    Returns:
        The distance; 0 if all weights are zero.

    Raises:
        PruneError: If there are no such values with so few bits.
    """
    if bits not in EVEN_BITS:
        raise PruneError(f"evenly spaced values need {EVEN_BITS[0]} to {EVEN_BITS[-1]} bits; got {bits}")
    if not largest:
        return 0.0
    facts = torch.finfo(dtype)
    steps = (1 << bits - 1) - 1
    digits = max(1, 1 - round(math.log2(facts.eps)) - (bits - 1))
    unit = max(2.0 ** (math.frexp(largest / steps)[1] - digits), facts.smallest_normal * facts.eps)
    return math.ceil(largest / steps / unit) * unit


def spacing(values: NDArray[Any], most: int = MOST) -> float:
    """Find the largest step of which all values are whole multiples.

    Args:
        values: Any shape; zeros are passed over.
        most: The largest multiple.

    Returns:
        The step; 0 if there is none, also if all values are zero.
    """
    sizes = np.unique(np.abs(np.asarray(values, np.float64)))
    sizes = sizes[sizes > 0]
    if not 0 < len(sizes) <= 2 * most:  # rounding may have made two of one
        return 0.0
    steps = sizes[0] / np.arange(1, most + 1)
    steps = steps[sizes[-1] / steps < most + 0.5]
    for step in steps:
        places = np.rint(sizes / step)
        if np.abs(sizes / step - places).max() < _OFF:
            return float((sizes * places).sum() / (places * places).sum())
    return 0.0
