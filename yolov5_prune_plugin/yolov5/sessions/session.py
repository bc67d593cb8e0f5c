"""A run with our flags: wraps names in the script's namespace and fires the events that plug-ins answer."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pluggy
import torch
from torch import nn

from yolov5_prune_plugin.errors import NoResultError, PruneError, clear_exit
from yolov5_prune_plugin.plugin_api.run import Calibration, Evaluation, Measurement, Run, Saved
from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import check_weights, source_of
from yolov5_prune_plugin.yolov5.checkpoints.pruned_file import save_pruned
from yolov5_prune_plugin.yolov5.seams.seams import Script, package_of
from yolov5_prune_plugin.yolov5.sessions.coco import Collector
from yolov5_prune_plugin.yolov5.sessions.measurement import after, as_usual, evaluation_of
from yolov5_prune_plugin.yolov5.sessions.nms import Labels, TimeLimit


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
        self.run.figure = script.figure
        self.run.calibration = self.calibrate
        self._what = Measurement()  # what is measured now
        self._batch: Optional[int] = None  # its --batch-size
        self._limit = TimeLimit()
        self._loaded: Optional[tuple[Any, torch.dtype]] = None  # what was loaded for it
        self._repeating = False
        self._inference = False  # whether it was loaded in inference mode
        self._model: Optional[nn.Module] = None
        self._package = ""  # what upstream's dotted names start with
        self._base: Optional[Path] = None  # the script's run folder
        self._labels: Optional[Labels] = None
        self._waiting = True  # the next call of increment_path names the run folder
        self._reload: Callable[[str], nn.Module] = _no_reload

    def install(self) -> None:
        """Wrap the names of this script's events."""
        self._wrap("model_loaded", self._loading)
        if self.script.role in ("validate", "use"):
            self._wrap("run_folder", self._naming)
        if self.script.role == "validate":
            self._wrap("evaluation", self._evaluating)
            if self.script.seams.get("suppression"):
                self._wrap("suppression", self._limit.watched)

    def save(self, model: nn.Module, names: list[str], file: Path, facts: dict[str, Any]) -> Saved:
        """Write a model that was just loaded and changed; see pruned_file.py."""
        with torch.inference_mode(self._inference), torch.no_grad():
            return save_pruned(source_of(self.run.weights[0]), model, names, file, self._reload, facts)

    def calibrate(self, images: int, split: str, seed: int) -> Calibration:
        """Draw images for the model that was just loaded; see calibration.py."""
        from yolov5_prune_plugin.yolov5.checkout.calibration import draw

        if self._model is None:
            raise RuntimeError("calibration images can be had from the event model_loaded on")
        return draw(self.script, self._package, self.run, self._model, images, split, seed)

    def _wrap(self, event: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        name = self.script.find(event, self.namespace)
        self.namespace[name] = wrapper(self.namespace[name])

    def _loading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original, updated=())
        def load(*args: Any, **kwargs: Any) -> Any:
            if self._repeating and self._loaded:
                model, dtype = self._loaded
                _inner(model).to(dtype)  # a run leaves it in float32
                return model
            with clear_exit():
                try:
                    model = original(*args, **kwargs)
                except Exception as error:
                    weights = " ".join(self.run.weights)
                    raise PruneError(f"--weights {weights}: cannot be loaded: {_one_line(error)}") from error
                self._reload = functools.partial(_load_again, original, args, kwargs)
                self._inference = torch.is_inference_mode_enabled()
                if self._what.changed:
                    if self.script.role == "export":
                        source = source_of(self.run.weights[0])
                        self.run.folder = source.with_name(f"{source.stem}_prune")
                    self._model = _inner(model)
                    self._package = package_of(original)
                    self.hook.model_loaded(run=self.run, model=self._model)
                if self.script.role == "validate":
                    self._loaded = model, next(_inner(model).parameters()).dtype
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
            place = self.run.folder / self._what.folder if self._what.folder else self._base
            if not self._repeating:
                self._labels = Labels(place)
            return place

        return increment_path

    def _evaluating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._base, self._batch = None, kwargs.get("batch_size")
            baseline = None
            plan = self.hook.measurements(run=self.run) or as_usual(self.run)
            with clear_exit():
                what = next(plan)
                while what:
                    try:
                        returned, evaluation = self._measure(original, args, kwargs, what)
                    except BaseException as error:
                        plan.throw(error)  # it may have something to keep
                        raise
                    if not what.changed and what.weights is None:
                        baseline = evaluation
                    what = after(plan, evaluation)
                self.hook.evaluated(run=self.run, evaluation=evaluation, baseline=baseline)
                for name, one in (("the unchanged model", baseline), ("the pruned model", evaluation)):
                    if one and one.failed:
                        raise NoResultError(
                            f"{self.script.path}: the figures of {name} are no measurement: {one.failed}"
                        )
            return returned

        return run

    def _measure(
        self, original: Callable[..., Any], args: Any, kwargs: Any, what: Measurement
    ) -> tuple[Any, Evaluation]:
        """Run the script's own validation; again with smaller batches if its NMS left out images."""
        self._what, self._loaded, self._repeating = what, None, False
        if what.weights:
            kwargs = {**kwargs, "weights": [str(what.weights)]}
        while True:
            if self._batch:
                kwargs = {**kwargs, "batch_size": self._batch}
            self._limit.dropped = 0
            returned, evaluation = self._once(original, args, kwargs, what.coco)
            evaluation = replace(evaluation, batch_size=self._batch)
            if not self._limit.dropped:
                return returned, evaluation
            said = f"upstream's NMS ran into its time limit and left out images in {self._limit.dropped} batches"
            if not self._batch or self._batch == 1:
                how = f"even of --batch-size {self._batch}" if self._batch else "and the script takes no batch size"
                return returned, replace(evaluation, failed=f"{said}, {how}; run it on a faster or idle machine")
            self._batch, self._repeating = self._batch // 2, True
            if self.run.main:
                print(f"yolov5-prune: not a measurement: {said}; again with --batch-size {self._batch}", flush=True)
            if self._labels:
                self._labels.restore()

    def _once(self, original: Callable[..., Any], args: Any, kwargs: Any, coco: bool) -> tuple[Any, Evaluation]:
        self._waiting = True
        if not coco or "callbacks" not in self.script.seams or "callbacks" in kwargs:
            returned = original(*args, **kwargs)
            return returned, evaluation_of(self.script, returned, {})
        callbacks = self.script.find("callbacks", self.namespace)
        loaders = self.script.find("data_loaded", self.namespace)
        with Collector(self.namespace, callbacks, loaders) as collector:
            returned = original(*args, **{**kwargs, "callbacks": collector.callbacks})
        return returned, evaluation_of(self.script, returned, collector.figures())


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
