"""A run with our flags: wraps names in the script's namespace and fires the events that plug-ins answer."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import pluggy
from torch import nn

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.run import Calibration, Evaluation, Run, Saved
from yolov5_prune_plugin.yolov5.checkpoint import check_weights, save_pruned, source_of
from yolov5_prune_plugin.yolov5.coco import Collector
from yolov5_prune_plugin.yolov5.seams import Script
from yolov5_prune_plugin.yolov5.stop import clear_exit


def start(
    script: Script,
    namespace: dict[str, Any],
    options: argparse.Namespace,
    arguments: argparse.Namespace,
    plugins: pluggy.PluginManager,
) -> None:
    """Let the plug-ins check their flags; if one takes part, put the seams in place.

    Raises:
        PruneError: If flags or weights are wrong.
        UpstreamError: If the script lacks a name that we need.
    """
    session = Session(script, namespace, options, arguments, plugins)
    taking_part = [plugin for plugin in plugins.hook.configure(run=session.run) if plugin is not None]
    if not taking_part:
        return
    if script.role != "train":
        check_weights(session.run.weights)
    for plugin in taking_part:
        plugins.register(plugin)
    session.install()


class Session:
    """Holds what the seams know of each other during one run of a script."""

    def __init__(
        self,
        script: Script,
        namespace: dict[str, Any],
        options: argparse.Namespace,
        arguments: argparse.Namespace,
        plugins: pluggy.PluginManager,
    ) -> None:
        self.script, self.namespace, self.hook = script, namespace, plugins.hook
        main = int(os.environ.get("RANK", -1)) in (-1, 0)
        self.run = Run(script.path, script.role, arguments, options, main, self.save)
        self.run.calibration = self.calibrate
        self._model: Optional[nn.Module] = None
        self._package = ""  # what upstream's dotted names start with
        self._dense = False
        self._base: Optional[Path] = None  # the script's run folder
        self._waiting = True  # the next call of increment_path names the run folder
        self._reload: Callable[[str], nn.Module] = _no_reload

    def install(self) -> None:
        """Wrap the names of this script's events."""
        self._wrap("model_loaded", self._loading)
        if self.script.role in ("validate", "use"):
            self._wrap("run_folder", self._naming)
        if self.script.role == "validate":
            self._wrap("evaluation", self._evaluating)

    def save(self, model: nn.Module, names: list[str], file: Path, facts: dict[str, Any]) -> Saved:
        """Write a model that was just loaded and changed; see checkpoint.py."""
        return save_pruned(source_of(self.run.weights[0]), model, names, file, self._reload, facts)

    def calibrate(self, images: int, split: str, seed: int) -> Calibration:
        """Draw images for the model that was just loaded; see calibration.py."""
        from yolov5_prune_plugin.yolov5.calibration import draw

        if self._model is None:
            raise RuntimeError("calibration images can be had from the event model_loaded on")
        return draw(self.script, self._package, self.run, self._model, images, split, seed)

    def _wrap(self, event: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        name = self.script.find(event, self.namespace)
        self.namespace[name] = wrapper(self.namespace[name])

    def _loading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original, updated=())
        def load(*args: Any, **kwargs: Any) -> Any:
            with clear_exit():
                try:
                    model = original(*args, **kwargs)
                except Exception as error:
                    weights = " ".join(self.run.weights)
                    raise PruneError(f"--weights {weights}: cannot be loaded: {_one_line(error)}") from error
                if not self._dense:
                    self._reload = functools.partial(_load_again, original, args, kwargs)
                    if self.script.role == "export":
                        source = source_of(self.run.weights[0])
                        self.run.folder = source.with_name(f"{source.stem}_prune")
                    self._model = _inner(model)
                    # models.common in a clone, yolov5.models.common from PyPI
                    self._package = str(getattr(original, "__module__", "")).rpartition("models.")[0]
                    self.hook.model_loaded(run=self.run, model=self._model)
                return model

        return load

    def _naming(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def increment_path(*args: Any, **kwargs: Any) -> Any:
            if not self._waiting:
                return original(*args, **kwargs)
            self._waiting = False
            if self._base is None:
                self._base = Path(original(*args, **kwargs))
            self.run.folder = self._base / "prune"
            return self.run.folder / "baseline" if self._dense else self._base

        return increment_path

    def _evaluating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._base = None
            baseline = None
            if self.run.wants_baseline:
                self._dense = True
                _, baseline = self._measure(original, args, kwargs)
                self._dense = False
            returned, evaluation = self._measure(original, args, kwargs)
            with clear_exit():
                self.hook.evaluated(run=self.run, evaluation=evaluation, baseline=baseline)
            return returned

        return run

    def _measure(self, original: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Evaluation]:
        self._waiting = True
        wanted = self.run.wants_baseline and "callbacks" in self.script.seams and "callbacks" not in kwargs
        if not wanted:
            returned = original(*args, **kwargs)
            return returned, _evaluation(self.script, returned, {})
        callbacks = self.script.find("callbacks", self.namespace)
        loaders = self.script.find("data_loaded", self.namespace)
        with Collector(self.namespace, callbacks, loaders) as collector:
            returned = original(*args, **{**kwargs, "callbacks": collector.callbacks})
        return returned, _evaluation(self.script, returned, collector.figures())


def _evaluation(script: Script, returned: Any, coco: dict[str, float]) -> Evaluation:
    results = returned if script.results_in is None else returned[script.results_in]
    figures = {name: float(value) for name, value in zip(script.results, results)}
    ms = {}
    if script.times_in is not None:
        ms = {name: float(value) for name, value in zip(("preprocess", "inference", "nms"), returned[script.times_in])}
    return Evaluation(figures, ms, coco)


def _inner(model: Any) -> nn.Module:
    """The nn.Module with upstream's layer names: DetectMultiBackend wraps it, attempt_load returns it."""
    if getattr(model, "pt", True) is False:
        raise PruneError("--prune needs PyTorch weights (.pt): an exported model has no Conv2d weights to change")
    return model.model if hasattr(model, "pt") else model


def _load_again(original: Callable[..., Any], args: Any, kwargs: Any, file: str) -> nn.Module:
    """What the script would get if it were given this file."""
    if "weights" in kwargs or not args:
        return _inner(original(*args, **{**kwargs, "weights": file}))
    return _inner(original(file, *args[1:], **kwargs))


def _no_reload(file: str) -> nn.Module:
    raise RuntimeError(f"nothing was loaded yet, so {file} cannot be loaded the same way")


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
