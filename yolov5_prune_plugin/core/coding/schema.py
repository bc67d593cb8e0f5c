"""What plain values of a header may be: types, ranges and known keys; an error names the field."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from yolov5_prune_plugin.errors import PruneError

Rule = Callable[[Any, str], None]  # (value, its field)
_DEEP = 20  # lists and objects in each other


def whole(least: int, most: int) -> Rule:
    """Take whole numbers.

    Args:
        least: The smallest.
        most: The largest.
    """

    def check(value: Any, field: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise wrong(field, value, f"a whole number from {least:,} to {most:,}")

    return check


def real(least: float, most: float) -> Rule:
    """Take numbers, whole or not; never NaN.

    Args:
        least: The smallest.
        most: The largest.
    """

    def check(value: Any, field: str) -> None:
        if type(value) not in (int, float) or not least <= value <= most:
            raise wrong(field, value, f"a number from {least:g} to {most:g}")

    return check


def text(longest: int) -> Rule:
    """Take texts of at most so many characters that can all be printed."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise wrong(field, value, f"a text of at most {longest} characters, none of them a control character")

    return check


def one_of(*values: str) -> Rule:
    """Take some texts."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, str) or value not in values:
            raise wrong(field, value, f"one of {', '.join(values)}")

    return check


def truth(value: Any, field: str) -> None:
    """Take true and false.

    Args:
        value: In question.
        field: Its name.
    """
    if not isinstance(value, bool):
        raise wrong(field, value, "true or false")


def listed(rule: Rule, least: int, most: int) -> Rule:
    """Take lists.

    Args:
        rule: Of each item.
        least: Items at least.
        most: Items at most.
    """

    def check(value: Any, field: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            size = f"{least}" if least == most else f"{least:,} to {most:,}"
            raise wrong(field, value, f"a list of {size}")
        for index, one in enumerate(value):
            rule(one, f"{field}[{index}]")

    return check


def tuple_of(*rules: Rule) -> Rule:
    """Take lists that have so many items, each of its own rule."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, list) or len(value) != len(rules):
            raise wrong(field, value, f"a list of {len(rules)}")
        for index, (rule, one) in enumerate(zip(rules, value)):
            rule(one, f"{field}[{index}]")

    return check


def mapped(rule: Rule, longest: int = 512) -> Rule:
    """Take objects whose keys are any texts.

    Args:
        rule: Of each value.
        longest: Characters of a key.
    """
    key_rule = text(longest)

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            raise wrong(field, value, "an object")
        for key, one in value.items():
            key_rule(key, f"{field}, a key")
            rule(one, f"{field}.{key[:60]}")

    return check


def record(rules: Mapping[str, Rule], needed: Collection[str] = ()) -> Rule:
    """Take objects with known keys.

    Args:
        rules: Of the values, by key.
        needed: Keys that must be there.
    """

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            raise wrong(field, value, "an object")
        for key in value:
            if key not in rules:
                raise PruneError(f"has a header whose {field} has the key {_said(key)}; known are {', '.join(rules)}")
        for key in needed:
            if key not in value:
                raise PruneError(f"has a header whose {field} lacks the key {key}")
        for key, one in value.items():
            rules[key](one, f"{field}.{key}")

    return check


def anything(value: Any, field: str, depth: int = 0) -> None:
    """Take any plain value: numbers are finite and texts can be printed, but for line ends and tabs.

    Args:
        value: In question.
        field: Its name.
        depth: How deep it is in others.
    """
    if depth > _DEEP:
        raise PruneError(f"has a header whose {field} is deeper than {_DEEP} lists and objects in each other")
    if isinstance(value, dict):
        for key, one in value.items():
            anything(key, f"{field}, a key", depth + 1)
            anything(one, f"{field}.{key[:60]}", depth + 1)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            anything(one, f"{field}[{index}]", depth + 1)
    elif isinstance(value, str):
        if not all(char.isprintable() or char in "\n\r\t" for char in value):
            raise wrong(field, value, "a text without control characters")
    elif isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) < 1e300):
        raise wrong(field, value, "a finite number")


def wrong(field: str, value: Any, wanted: str) -> PruneError:
    """Make the error for a value.

    Args:
        field: Its name.
        value: What was found.
        wanted: What would do.
    """
    return PruneError(f"has a header whose {field} must be {wanted}; got {_said(value)}")


def _said(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    if isinstance(value, int) and abs(value) > 1 << 80:
        return f"a number of {value.bit_length()} bits"
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
