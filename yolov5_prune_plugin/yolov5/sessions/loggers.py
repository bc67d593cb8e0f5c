"""Figures of each epoch go where upstream logs: results.csv, TensorBoard and whatever else its loggers feed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Optional

from yolov5_prune_plugin.plugin_api.run import Run, Training


class LoggedFigures:
    """Adds to what a script logs the figures that plug-ins put into ``Training.history``, as ``prune/NAME``."""

    def __init__(self, run: Run) -> None:
        self._run = run  # its figures are known once all flags are read
        self._training: Optional[Training] = None
        self._loggers: Any = None

    def follow(self, training: Training) -> None:
        """Log the figures of a training that begins."""
        self._training = training

    def making(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap upstream's loggers: they get our columns; those of segment/ and classify/ get our figures by name."""

        @functools.wraps(original, updated=())
        def make(*args: Any, **kwargs: Any) -> Any:
            self._loggers = made = original(*args, **kwargs)
            if hasattr(made, "keys"):
                last = "class_name_keys" if hasattr(made, "class_name_keys") else "keys"  # PyPI has both, in this order
                setattr(made, last, [*getattr(made, last), *(f"prune/{name}" for name in self._run.figures)])
            if hasattr(made, "log_metrics"):
                log = made.log_metrics
                made.log_metrics = functools.wraps(log)(lambda m, *a, **k: log({**m, **self._figures()}, *a, **k))
            return made

        return make

    def listen(self, given: list[Any]) -> None:
        """Add our figures to the values of an epoch, which upstream's Callbacks carry as a list.

        Args:
            given: Arguments of the script's own training function; the Callbacks are among them.
        """
        for callbacks in given:
            if hasattr(callbacks, "register_action") and "run" not in vars(callbacks):
                callbacks.run = self._running(callbacks.run)

    def _running(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(hook: str, *args: Any, **kwargs: Any) -> Any:
            figures = list(self._figures().values())
            if hook == "on_fit_epoch_end" and args and figures and len(args[0]) + len(figures) == self._columns():
                args = ([*args[0], *figures], *args[1:])
            return original(hook, *args, **kwargs)

        return run

    def _columns(self) -> int:
        return len(getattr(self._loggers, "keys", ())) + len(getattr(self._loggers, "class_name_keys", ()))

    def _figures(self) -> dict[str, float]:
        if not (self._training and self._training.history):
            return {}
        return {f"prune/{name}": self._training.history[-1].get(name, 0.0) for name in self._run.figures}
