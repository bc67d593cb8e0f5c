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
    """Keeps best.pt and early stopping from counting a model whose masks still change."""

    def __init__(self) -> None:
        self._masked: Optional[Masked] = None
        self._figure: Optional[float] = None  # of the last validation, in a script that has no fitness to wrap
        self._highest = -1.0

    def follow(self, masked: Optional[Masked]) -> None:
        """Judge by the masks of a training that begins; None once it ended."""
        self._masked, self._figure, self._highest = masked, None, -1.0

    def judging(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap upstream's fitness: 0 as long as masks change, so that each epoch ties with the best."""

        @functools.wraps(original)
        def fitness(*args: Any, **kwargs: Any) -> Any:
            value = original(*args, **kwargs)
            return value * 0 if self._masked and not self._masked.frozen else value

        return fitness

    def validating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the validation of classify/train.py, whose fitness is the first figure that it returns."""

        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            returned = original(*args, **kwargs)
            if self._masked and self._masked.frozen:
                self._figure = float(returned[0])
            return returned

        return run

    def after_save(self, last: Path) -> Optional[Path]:
        """Say where a checkpoint that was just written is to be written too.

        Returns:
            best.pt beside a last.pt that is the best so far, in a script without a fitness to wrap; else None.
        """
        if last.name != "last.pt" or self._figure is None or self._figure < self._highest:
            return None
        self._highest = self._figure
        return last.with_name("best.pt")
