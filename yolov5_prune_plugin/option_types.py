"""Flags that say when and how much in training: their checks."""

from __future__ import annotations

from yolov5_prune_plugin.errors import PruneError


def share(text: str) -> float:
    """A sparsity in (0, 1)."""
    value = _number(text)
    if value is None or not 0 < value < 1:
        raise PruneError(f"sparsity must be a number above 0 and below 1, for example 0.8; got {text!r}")
    return value


def moment(text: str) -> float:
    """A share of the training from 0 to 1, or a whole number of optimizer steps above 1."""
    value = _number(text)
    if value is None or value < 0 or (value > 1 and value != int(value)):
        raise PruneError("must be a share of the training from 0 to 1, or a whole number of optimizer steps above 1;"
                         f" got {text!r}")  # fmt: skip
    return value


def at_least_zero(text: str) -> float:
    """A number of 0 or more."""
    value = _number(text)
    if value is None or value < 0:
        raise PruneError(f"must be a number of 0 or more, got {text!r}")
    return value


def above_zero(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if value is None or value <= 0:
        raise PruneError(f"must be a number above 0, got {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise PruneError(f"must be a whole number, at least 1; got {text!r}")
    return int(text)


def points(text: str) -> float:
    """Hundredths of a figure, in (0, 100).

    Raises:
        PruneError: If it is none.
    """
    try:
        if 0 < float(text) < 100:
            return float(text)
    except ValueError:
        pass
    raise PruneError(f"points must be a number above 0 and below 100, such as 2 for 0.02 of mAP; got {text!r}")


def check_order(start_flag: str, start: float, stop_flag: str, stop: float) -> None:
    """Refuse a stop that is not after the start; of a share and a number of steps only the run can tell.

    Raises:
        PruneError: If it is not.
    """
    if (start <= 1) == (stop <= 1) and start >= stop:
        raise PruneError(f"{stop_flag} {stop:g} must be after {start_flag} {start:g}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
