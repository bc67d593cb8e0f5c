"""Times calls side by side, in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


def in_turns(
    calls: Mapping[Name, Call],
    rounds: int,
    warm: int = 2,
    progress: Call = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    lead: int = 0,
) -> dict[Name, list[float]]:
    """Milliseconds of each call in each round; in a round each has one turn, and every other round goes backwards.

    Args:
        calls: By name.
        rounds: How many are timed.
        warm: How many go before that are not.
        progress: Called after each round.
        clock: Seconds; ``time.process_time`` counts what the processor worked for this process, not what it waited.
        lead: Calls in each turn that go before the one that is timed, so that it finds its own data in the caches.
    """
    found: dict[Name, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for number in range(-warm, rounds):
        for name in order if number % 2 else reversed(order):
            for _ in range(lead):
                calls[name]()
            started = clock()
            calls[name]()
            if number >= 0:
                found[name].append((clock() - started) * 1e3)
        if number >= 0:
            progress()
    return found


def ratio(times: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """The median over rounds of times / base, and the quartiles of it.

    Args:
        times: Of one call, in ms, by round.
        base: Of what it is compared with, in the same rounds.
    """
    ratios = [one / other for one, other in zip(times, base)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return middle, low, high
