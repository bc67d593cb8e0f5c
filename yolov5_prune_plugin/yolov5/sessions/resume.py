"""A train.py with --resume: our flags are those of the run that goes on, known once it put back its arguments."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pluggy

from yolov5_prune_plugin.errors import PruneError, clear_exit
from yolov5_prune_plugin.options import build, flag_name, given, split_arguments
from yolov5_prune_plugin.yolov5.seams.seams import Script
from yolov5_prune_plugin.yolov5.sessions.training import FLAGS, configured

Offer = Callable[[], tuple[pluggy.PluginManager, list[type]]]


def start(script: Script, namespace: dict[str, Any], options: argparse.Namespace, offer: Offer) -> None:
    """Wrap the script's training function, which knows the arguments of the interrupted run when it is called.

    Args:
        script: What we know of the script.
        namespace: Its globals.
        options: Our flags that were given now; there may be none.
        offer: Loads the plug-ins, and the dataclasses of their flags.

    Raises:
        UpstreamError: If the script has none of the names we know.
    """
    resumed = _Resumed(script, namespace, options, offer)
    resumed.restore = script.wrap("training", namespace, resumed.around)


class _Resumed:
    """A run that goes on: our flags are those it was started with."""

    restore: Callable[[], None]  # puts the script's own training function back

    def __init__(self, script: Script, namespace: dict[str, Any], options: argparse.Namespace, offer: Offer) -> None:
        self.script, self.namespace, self.options, self.offer = script, namespace, options, offer

    def around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def train(*args: Any, **kwargs: Any) -> Any:
            opt = next(one for one in (*args, *kwargs.values()) if isinstance(one, argparse.Namespace))
            had = getattr(opt, FLAGS, None)
            with clear_exit():
                if had is None and not vars(self.options):
                    return original(*args, **kwargs)
                plugins, classes = self.offer()
                where = f"--resume {opt.weights}"
                if had is None:
                    flag = next(flag for cls in classes for flag in given(self.options, cls))
                    raise PruneError(f"that run had none of our flags, so {flag} cannot be added to it; start a new"
                                     f" run with --weights {opt.weights}", where)  # fmt: skip
                theirs, unknown = split_arguments(classes, list(map(str, had)), self.script.path)
                if unknown:
                    raise PruneError(f"its run had {unknown[0]}, which no plug-in offers now", where)
                for cls in classes:
                    _compare(build(theirs, cls), build(self.options, cls), self.options, where)
                self.restore()
                session = configured(self.script, self.namespace, theirs, opt, plugins, classes)
                if session is None:
                    return original(*args, **kwargs)
                session.install()
                return session.train(original, args, kwargs)

        return train


def _compare(had: Any, now: Any, options: argparse.Namespace, where: str) -> None:
    """Refuse a flag that is given with --resume and is not what the run had."""
    for field in dataclasses.fields(had):
        if hasattr(options, field.name) and getattr(now, field.name) != getattr(had, field.name):
            before, after = _said(had, field.name), _said(now, field.name)
            raise PruneError(f"its run had {flag_name(field)} {before}, now it is {after}; leave our flags out, they"
                             " are taken from the run", where)  # fmt: skip


def _said(options: Any, name: str) -> str:
    value = getattr(options, name)
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
