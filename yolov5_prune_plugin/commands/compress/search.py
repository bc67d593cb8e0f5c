"""The smallest file that is good enough: bits for a size, a validation of the file, and bisection between sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from yolov5_prune_plugin.core.coding.bits import Choice, for_size
from yolov5_prune_plugin.core.pruning.budget import Bisection
from yolov5_prune_plugin.errors import NoResultError
from yolov5_prune_plugin.reporting.labels import label

STEP = 1 / 32  # of the way from the most bytes of indices to the least, in logarithms: about 6%
SPAN = 8  # the most, divided by the least that is tried; below nothing is left of a model


@dataclass(frozen=True)
class Judge:
    """Says whether a file is good enough.

    Attributes:
        figure: Name of what is measured.
        reference: Of the checkpoint, in [0, 1].
        floor: The least that will do.
        measure: Of the file as it was just written.
    """

    figure: str
    reference: float
    floor: float
    measure: Callable[[], float]


def smallest(
    choices: Mapping[str, Sequence[Choice]], write: Callable[[dict[str, Choice]], int], judge: Judge,
    say: Callable[[str], None],
) -> dict[str, Choice]:  # fmt: skip
    """Find by bisection the bits of the smallest file that is good enough; that file is written last.

    Smaller files are taken to be no better. The one that is kept was measured itself.

    Args:
        choices: By name.
        write: Writes the file with these choices; returns its bytes.
        judge: Of the file.
        say: Takes one line a trial.

    Returns:
        The choice by name.

    Raises:
        NoResultError: If even the most bits are not good enough.
    """
    most = sum(min(some, key=lambda one: (one.error, one.size)).size for some in choices.values())
    least = max(most / SPAN, sum(min(one.size for one in some) for some in choices.values()))
    found: dict[float, dict[str, Choice]] = {}

    def tried(amount: float) -> float:
        chosen = for_size(choices, max(least, most * (least / max(most, 1e-9)) ** amount))
        size = write(chosen)
        value = judge.measure()
        found[amount] = chosen
        inside = value >= judge.floor
        mean = sum(one.bits for one in chosen.values()) / max(1, len(chosen))
        say(f"{mean:.2f} bits a layer, {size:,} bytes: {label(judge.figure)} {value:.4f},"
            f" {100 * (judge.reference - value):+.2f} points below: {'inside' if inside else 'outside'}")  # fmt: skip
        return value

    best = tried(0.0)
    if best < judge.floor:
        raise NoResultError(f"even with 8 bits {label(judge.figure)} is {best:.4f}, below the {judge.floor:.4f} asked"
                            " for; train the shared values (train.py --share-bits), or allow more points")  # fmt: skip
    search = Bisection(STEP)
    while (amount := search.next) is not None:
        search.tell(amount, tried(amount) >= judge.floor)
    write(found[search.best])
    return found[search.best]
