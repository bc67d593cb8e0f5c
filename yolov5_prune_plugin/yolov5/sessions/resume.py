"""How a train.py starts with our flags: at once, or with --resume once it has put back the arguments of its run."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Optional

import pluggy
import torch

from yolov5_prune_plugin.errors import PruneError, clear_exit
from yolov5_prune_plugin.options import build, flag_name, split_arguments, words
from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import check_weights
from yolov5_prune_plugin.yolov5.seams.seams import Script
from yolov5_prune_plugin.yolov5.seams.wrapping import wrap
from yolov5_prune_plugin.yolov5.sessions.training import FLAGS, TrainingSession

MASKS = ("sparsity", "pruned", "spliced")  # figures of a plug-in that does not say which it has


def start(
    script: Script,
    namespace: dict[str, Any],
    options: argparse.Namespace,
    arguments: argparse.Namespace,
    offer: Callable[[], tuple[pluggy.PluginManager, list[type]]],
) -> None:
    """Let the plug-ins check their flags and put the seams in place; with --resume, wait for the flags of the run.

    Args:
        script: What we know of it.
        namespace: Its globals.
        options: Our flags that were given; with --resume there may be none.
        arguments: Its own.
        offer: The plug-ins and their dataclasses of flags.

    Raises:
        PruneError: If flags or weights are wrong.
        UpstreamError: If the script lacks a name that we need.
    """
    if getattr(arguments, "resume", False) and not getattr(arguments, "evolve", None):
        wrap(namespace, script.find("training", namespace), _Resumed(script, namespace, options, offer).around)
        return
    plugins, classes = offer()
    session = _configured(script, namespace, options, arguments, plugins, classes)
    if session:
        weights = str(getattr(arguments, "weights", None) or getattr(arguments, "model", "") or "")
        check_weights([weights] if weights.endswith(".pt") else [])
        session.install()


def _configured(
    script: Script,
    namespace: dict[str, Any],
    options: argparse.Namespace,
    arguments: argparse.Namespace,
    plugins: pluggy.PluginManager,
    classes: Sequence[type],
) -> Optional[TrainingSession]:
    session = TrainingSession(script, namespace, options, arguments, plugins, words(options, classes))
    _check_ranks(session.words[0])
    taking_part = [plugin for plugin in plugins.hook.configure(run=session.run) if plugin is not None]
    for plugin in taking_part:
        plugins.register(plugin)
        session.run.figures += getattr(plugin, "figures", MASKS)
    return session if taking_part else None


def _check_ranks(flag: str) -> None:
    """Upstream's distributed training takes one GPU a process.

    Raises:
        PruneError: If there are fewer.
    """
    gpus = torch.cuda.device_count()
    if int(os.environ.get("LOCAL_RANK", -1)) >= gpus:
        ranks = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))
        advice = f"start at most {gpus} (--nproc_per_node {gpus})" if gpus else "leave torchrun out"
        raise PruneError(
            f"{flag}: {ranks} processes, but this machine has {gpus} GPUs, and train.py takes one for each; {advice}"
        )


class _Resumed:
    """A run that goes on: our flags are those it was started with."""

    def __init__(self, script: Script, namespace: dict[str, Any], options: argparse.Namespace, offer: Any) -> None:
        self.script, self.namespace, self.options, self.offer = script, namespace, options, offer

    def around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def train(*args: Any, **kwargs: Any) -> Any:
            opt = next(one for one in (*args, *kwargs.values()) if isinstance(one, argparse.Namespace))
            had = getattr(opt, FLAGS, None)
            with clear_exit():
                if had is None:
                    if vars(self.options):
                        raise PruneError(f"--resume {opt.weights}: that run had none of our flags, so"
                                         f" {_first(self.options)} cannot be added to it; start a new run with"
                                         f" --weights {opt.weights}")  # fmt: skip
                    return original(*args, **kwargs)
                plugins, classes = self.offer()
                theirs, unknown = split_arguments(classes, list(map(str, had)), self.script.path)
                if unknown:
                    raise PruneError(f"--resume {opt.weights}: its run had {unknown[0]}, which no plug-in offers now")
                _compare(str(opt.weights), theirs, self.options, classes)
                self.namespace[original.__name__] = original
                session = _configured(self.script, self.namespace, theirs, opt, plugins, classes)
                if session is None:
                    return original(*args, **kwargs)
                session.install()
                return session.train(original, args, kwargs)

        return train


def _compare(weights: str, theirs: argparse.Namespace, ours: argparse.Namespace, classes: Sequence[type]) -> None:
    """What is given with --resume must be what the run had."""
    for cls in classes:
        had, now = build(theirs, cls), build(ours, cls)
        for name in vars(ours):
            if hasattr(now, name) and getattr(now, name) != getattr(had, name):
                flag = flag_name(next(field for field in cls.__dataclass_fields__.values() if field.name == name))
                raise PruneError(f"--resume {weights}: its run had {flag} {_said(had, name)}, now it is"
                                 f" {_said(now, name)}; leave our flags out, they are taken from the run")  # fmt: skip


def _said(options: Any, name: str) -> str:
    value = getattr(options, name)
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _first(options: argparse.Namespace) -> str:
    return "--" + next(iter(vars(options))).replace("_", "-")
