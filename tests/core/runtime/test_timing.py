"""Timing in turns, and the ratios that come of it."""

from __future__ import annotations

import time

from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio


def test_each_has_its_turn_and_the_order_alternates() -> None:
    """Two rounds to warm up, which are not counted."""
    calls: list[str] = []
    rounds: list[int] = []
    found = in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, 1, lambda: rounds.append(len(calls))
    )
    assert "".join(calls) == "ab" + "ba" + "ab"
    assert rounds == [4, 6]
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}


def test_calls_that_lead_are_not_timed() -> None:
    """Each turn is two calls, of which the second counts."""
    calls: list[str] = []
    found = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 1, 0, lead=1)
    assert "".join(calls) == "bbaa"
    assert [len(times) for times in found.values()] == [1, 1]


def test_milliseconds() -> None:
    """A sleep of 5 ms takes at least that long."""
    assert min(in_turns({"a": lambda: time.sleep(0.005)}, 2)["a"]) >= 5


def test_ratio_by_hand() -> None:
    """The median of the rounds' own ratios: what slows both down in a round does not count."""
    assert ratio([2, 40, 6], [1, 10, 2])[0] == 3
    assert ratio([3.0], [2.0]) == (1.5, 1.5, 1.5)
