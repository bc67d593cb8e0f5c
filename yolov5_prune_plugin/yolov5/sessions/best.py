"""best.pt and early stopping count from the moment on at which masks don't change any more.

A model is better before it is pruned: left alone, best.pt would be the one of an early epoch, nearly dense.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from yolov5_prune_plugin.core.training.masked import Masked


class Best:
    """Knows whether a model counts yet."""

    def __init__(self) -> None:
        self._masked: Optional[Masked] = None
        self._figure: Optional[float] = None  # of the last validation, in a script that has no fitness to wrap
        self._highest = -1.0

    def follow(self, masked: Optional[Masked]) -> None:
        """A training begins, or ends: None."""
        self._masked, self._figure, self._highest = masked, None, -1.0

    def judging(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Fitness is 0 as long as masks change: each epoch then ties with the best, and early stopping waits."""

        @functools.wraps(original)
        def fitness(*args: Any, **kwargs: Any) -> Any:
            value = original(*args, **kwargs)
            return value * 0 if self._masked and not self._masked.frozen else value

        return fitness

    def validating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """classify/train.py has its fitness in a variable; it is the first figure that its validation returns."""

        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            returned = original(*args, **kwargs)
            if self._masked and self._masked.frozen:
                self._figure = float(returned[0])
            return returned

        return run

    def after_save(self, last: Path) -> Optional[Path]:
        """Where else a last.pt that was just written belongs: to best.pt, if it is the best that counts."""
        if last.name != "last.pt" or self._figure is None or self._figure < self._highest:
            return None
        self._highest = self._figure
        return last.with_name("best.pt")
