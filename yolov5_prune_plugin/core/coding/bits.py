"""Bits of an index by layer, and what its codebook is: as given, or those with the least error at a size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from yolov5_prune_plugin.core.coding.codebook import BITS, K_MEANS
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import by_glob

_TRIALS = 12  # files that are written at most to come near a size
_ENOUGH = 4  # the same, once there is one that is small enough
_SLACK = 0.01  # so near is near enough


@dataclass(frozen=True)
class Choice:
    """Size and error of a layer at some number of bits.

    Attributes:
        bits: Bits of an index.
        size: Bytes of indices and codebook.
        error: Sum of squared differences / sum of squares of the weights.
        codebook: One of ``CODEBOOKS``.
    """

    bits: int
    size: float
    error: float
    codebook: str = K_MEANS


def by_layer(entries: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Give each layer its bits; the last entry that matches counts.

    Args:
        entries: ``N`` for all layers, or ``GLOB=N``.
        names: Parameter names of all layers.

    Returns:
        Bits of an index by parameter name.

    Raises:
        PruneError: If a number is no number of bits, a glob matches no layer, or a layer has none; of the field
            ``bits``.
    """
    found = by_glob(entries, names, _bits, "conv or linear weight", "bits")
    for name in names:
        if name not in found:
            raise PruneError(f"nothing is said of {name}; put a number for all layers first", "bits")
    return found


def for_size(choices: Mapping[str, Sequence[Choice]], budget: float) -> dict[str, Choice]:
    """Choose bits so that all layers together stay within a size and the sum of their errors is small.

    Each layer begins with its smallest choice; then, one after the other, the step that removes most error for a byte
    is made, along the lower convex hull of each layer's choices, as long as it fits. At the sizes where a step ends
    this is the least possible error.

    Args:
        choices: The choices of each layer, by name.
        budget: Bytes of all layers' indices and codebooks.

    Returns:
        The choice by name.

    Raises:
        PruneError: If even the smallest choices need more.
    """
    hulls = {name: _hull(some) for name, some in choices.items()}
    size = sum(hull[0].size for hull in hulls.values())
    if size > budget:
        raise PruneError(
            f"even at {BITS[0]} bit the weights need {size:,.0f} bytes where {max(0, budget):,.0f} are left"
        )
    steps = [(_gain(low, high), high.size - low.size, name, high)
             for name, hull in hulls.items() for low, high in zip(hull, hull[1:])]  # fmt: skip
    found = {name: hull[0] for name, hull in hulls.items()}
    stopped: set[str] = set()
    for _, more, name, choice in sorted(steps, key=lambda step: -step[0]):
        if name in stopped or size + more > budget:
            stopped.add(name)  # its later steps build on this one
            continue
        size, found[name] = size + more, choice
    return found


def within(size: int, fixed: int, choices: Mapping[str, Sequence[Choice]], write: Callable[[dict[str, Choice]], int]
           ) -> dict[str, Choice]:  # fmt: skip
    """Choose bits with which a file is at most ``size`` bytes, by writing it.

    Args:
        size: Bytes of the whole file.
        fixed: Bytes of all but indices and codebooks, nearly.
        choices: The choices of each layer, by name.
        write: Writes the file with these choices; returns its bytes.

    Returns:
        The choice by name; the file was written with them last.

    Raises:
        PruneError: If even the smallest choices need more.
    """
    budget = float(size - fixed)
    best: dict[str, Choice] = {}
    written: dict[str, Choice] = {}
    largest = -1
    for trial in range(_TRIALS):
        found = for_size(choices, budget)
        if found in (best, written):
            break
        took, written = write(found), found
        if largest < took <= size:
            best, largest = found, took
        if best and (trial >= _ENOUGH or 0 <= size - took <= _SLACK * size):
            break
        budget = sum(one.size for one in found.values()) + size - took
    if not best:
        raise PruneError(f"no choice of bits was found that keeps the file within {size:,} bytes")
    if written != best:
        write(best)
    return best


def _bits(text: str) -> int:
    if not text.isdecimal() or int(text) not in BITS:
        raise PruneError(f"bits are a whole number from {BITS[0]} to {BITS[-1]}, for all layers, or GLOB=N")
    return int(text)


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that no mixture of others beats, by rising size."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda one: (one.size, one.error)):
        if hull and choice.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-2], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _gain(low: Choice, high: Choice) -> float:
    return (low.error - high.error) / max(high.size - low.size, 1e-9)
