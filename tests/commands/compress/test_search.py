"""The smallest file within a budget, where what a file is worth is known."""

from __future__ import annotations

import pytest

from yolov5_prune_plugin.commands.compress.search import STEP, Judge, smallest
from yolov5_prune_plugin.core.coding.bits import Choice
from yolov5_prune_plugin.errors import NoResultError

CHOICES = {name: [Choice(bits, scale * bits, 4.0**-bits) for bits in range(1, 9)]
           for name, scale in (("a", 10.0), ("b", 1000.0))}  # fmt: skip


class File:
    """Stands for the file: worth 0.6 less what its layers lose."""

    def __init__(self) -> None:
        self.bits: dict[str, int] = {}
        self.written: list[int] = []

    def write(self, found: dict[str, Choice]) -> int:
        self.bits = {name: one.bits for name, one in found.items()}
        self.written.append(sum(100 * one.bits for one in found.values()))
        return self.written[-1]

    def worth(self) -> float:
        return 0.6 - sum(4.0**-number for number in self.bits.values())


@pytest.mark.parametrize("floor", [0.595, 0.55, 0.3])
def test_no_smaller_one_would_do(floor: float) -> None:
    """The last file written is the one that counts: inside, and the next smaller step is outside."""
    file, said = File(), []  # type: ignore[var-annotated]
    found = smallest(CHOICES, file.write, Judge("map", 0.6, floor, file.worth), said.append)
    bits = {name: one.bits for name, one in found.items()}
    assert file.bits == bits
    assert file.worth() >= floor
    assert 4.0 ** -(bits["b"] - 1) + 4.0 ** -bits["a"] > 0.6 - floor  # a bit less in the large layer
    assert len(said) <= 2 + 1 / STEP**0.5
    assert "mAP50-95" in said[0]
    assert "points below: inside" in said[0]


def test_even_the_largest_is_not_enough() -> None:
    file = File()
    with pytest.raises(NoResultError, match=r"even with 8 bits mAP50-95 is 0\.6000, below the 0\.6500 asked for"):
        smallest(CHOICES, file.write, Judge("map", 0.66, 0.65, file.worth), print)
