"""A val.py, detect.py, predict.py or export.py with our flags: its model is changed when loaded, and measured."""

from __future__ import annotations

import argparse
import atexit
import functools
import inspect
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pluggy
import torch
from torch import nn

from yolov5_prune_plugin.errors import NoResultError, PruneError, clear_exit
from yolov5_prune_plugin.files import check_folder
from yolov5_prune_plugin.plugin_api.run import Evaluation, Measurement, Run, Saved
from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import check_weights, source_of
from yolov5_prune_plugin.yolov5.checkpoints.pruned_file import save_pruned
from yolov5_prune_plugin.yolov5.checkpoints.unpacking import export_under, unpacked_checkpoint
from yolov5_prune_plugin.yolov5.seams.seams import Script, package_of
from yolov5_prune_plugin.yolov5.sessions.coco import Collector
from yolov5_prune_plugin.yolov5.sessions.nms import Labels, TimeLimit
from yolov5_prune_plugin.yolov5.sessions.session import Session

NO_LABELS = (
    "no image of this split has a label, and without labels nothing can be measured; give a --data whose labels lie"
    " where YOLOv5 looks for them (images/... and labels/...)"
)
Plan = Generator[Measurement, Evaluation, None]


def start(
    script: Script,
    namespace: dict[str, Any],
    options: argparse.Namespace,
    arguments: argparse.Namespace,
    plugins: pluggy.PluginManager,
) -> None:
    """Let the plug-ins check their flags; if one takes part, wrap the names of the script.

    Args:
        script: What we know of the script.
        namespace: Its globals.
        options: Our flags that were given.
        arguments: The script's own arguments.
        plugins: The plug-ins that may take part.

    Raises:
        PruneError: If flags or weights are wrong.
        UpstreamError: If the script lacks a name that we need.
    """
    session = InferenceSession(script, namespace, options, arguments, plugins)
    if session.configure():
        check_weights(session.run.weights)
        session.install()


class InferenceSession(Session):
    """A run of a script that loads a trained model."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._what = Measurement()  # what is measured now
        self._batch: Optional[int] = None  # its --batch-size
        self._limit = TimeLimit()
        self._loaded: Optional[tuple[Any, torch.dtype]] = None  # what was loaded for it
        self._objects: Optional[int] = None  # labelled ones in the data set; None if that is not known
        self._images: Optional[int] = None  # in the data set; None if that is not known
        self._repeating = False
        self._inference = False  # whether it was loaded in inference mode
        self._base: Optional[Path] = None  # the script's run folder
        self._labels: Optional[Labels] = None
        self._waiting = True  # the next call of increment_path names the run folder
        self._exports: dict[str, tuple[str, Path]] = {}  # by weights: export.py's name for them, and our folder
        self._reload: Callable[[str], nn.Module] = _no_reload

    def install(self) -> None:
        """Wrap the names that load the model, name the run folder and measure.

        Raises:
            UpstreamError: If the script has none of the names we know for one of them.
        """
        seams: dict[str, Callable[[Any], Any]] = {"model_loaded": self._loading}
        if self.script.role == "export":
            self._name_exports()
        if self.script.role in ("use", "export"):
            if self.script.has("finished", self.namespace):
                seams["finished"] = self._finishing
            else:  # a script like v5.0's, which is one piece
                atexit.register(self._finish)
        if self.script.role in ("validate", "use"):
            seams["run_folder"] = self._naming
        if self.script.role == "validate":
            seams["evaluation"] = self._evaluating
            if self.script.has("data_loaded", self.namespace):
                seams["data_loaded"] = self._counting
            if self.script.seams.get("suppression"):
                seams["suppression"] = self._limit.watched
        self.wrap(seams)

    def _name_exports(self) -> None:
        """Have export.py write under names of their own, so that no export of the model as given is replaced."""
        theirs = self.run.arguments
        self.run.arguments = argparse.Namespace(**vars(theirs))  # as given
        for weights in self.run.weights:
            if "://" not in weights:
                self._exports[weights] = export_under(weights)
        names = [self._exports[weights][0] if weights in self._exports else weights for weights in self.run.weights]
        theirs.weights = names if isinstance(theirs.weights, list) else names[0]

    def _finishing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            returned = original(*args, **kwargs)
            with clear_exit():
                self._finish()
            return returned

        return run

    def _finish(self) -> None:
        if self._model is not None:
            self.plugins.hook.finished(run=self.run)

    def save(self, model: nn.Module, names: list[str], file: Path, facts: dict[str, Any]) -> Saved:
        """Write the model that was just loaded and changed, as ``checkpoint.save_pruned`` does.

        Args:
            model: The changed model, as the script runs it.
            names: Parameters that were changed.
            file: Where to; must not exist.
            facts: Plain values that are kept in the checkpoint.

        Raises:
            PruneError: If it can't be written, or does not reload to the same model; no file is left then.
        """
        with torch.inference_mode(self._inference), torch.no_grad():
            return save_pruned(source_of(self.run.weights[0]), model, names, file, self._reload, facts)

    def _loading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original, updated=())
        def load(*args: Any, **kwargs: Any) -> Any:
            if self._repeating and self._loaded:
                model, dtype = self._loaded
                _inner(model).to(dtype)  # a run leaves it in float32
                return model
            with clear_exit():
                if self.script.role == "export":
                    args, kwargs = self._as_given(args, kwargs)
                try:
                    model = original(*args, **kwargs)
                except Exception as error:
                    weights = " ".join(self.run.weights)
                    raise PruneError(f"cannot be loaded: {_one_line(error)}", f"--weights {weights}") from error
                self._reload = functools.partial(_load_again, original, args, kwargs)
                self._inference = torch.is_inference_mode_enabled()
                if self._what.changed:
                    self._model = _inner(model)
                    self._package = package_of(original)
                    self.plugins.hook.model_loaded(run=self.run, model=self._model)
                if self.script.role == "validate":
                    self._loaded = model, next(_inner(model).parameters()).dtype
                return model

        return load

    def _as_given(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a load by export.py with the weights' own name; the report goes beside them."""
        name = kwargs["weights"] if "weights" in kwargs else args[0]
        name = str(name[0] if isinstance(name, list) else name)
        self.run.folder = next((folder for place, folder in self._exports.values() if place == name), None)
        if self.run.folder is None:
            source = source_of(name)
            self.run.folder = source.with_name(f"{source.stem}_prune")
        name = unpacked_checkpoint(name)
        return ((), {**kwargs, "weights": name}) if "weights" in kwargs else ((name, *args[1:]), kwargs)

    def _counting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the loader of images, to count them and their labels: without any label nothing can be measured."""

        @functools.wraps(original)
        def create(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            detection = isinstance(made, tuple) and len(made) > 1
            dataset = made[1] if detection else getattr(made, "dataset", None)
            labels = getattr(dataset, "labels", None)
            self._objects = None if labels is None else sum(len(of_image) for of_image in labels)
            self._images = len(dataset) if hasattr(dataset, "__len__") else None
            return made

        return create

    def _naming(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def increment_path(*args: Any, **kwargs: Any) -> Any:
            if not self._waiting:
                return original(*args, **kwargs)
            self._waiting = False
            if self._base is None:
                self._base = Path(original(*args, **kwargs))
                with clear_exit():
                    check_folder("--project", self._base)
            self.run.folder = self._base / "prune"
            place = self.run.folder / self._what.folder if self._what.folder else self._base
            if not self._repeating:
                self._labels = Labels(place)
            return place

        return increment_path

    def _evaluating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._base, self._batch = None, _bound(original, args, kwargs).get("batch_size")
            baseline = None
            plan = self.plugins.hook.measurements(run=self.run) or _as_usual(self.run)
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
                    what = _next(plan, evaluation)
                self.plugins.hook.evaluated(run=self.run, evaluation=evaluation, baseline=baseline)
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
            args, kwargs = _given(original, args, kwargs, weights=[str(what.weights)])
        while True:
            if self._batch:
                args, kwargs = _given(original, args, kwargs, batch_size=self._batch)
            self._limit.dropped = 0
            returned, evaluation = self._once(original, args, kwargs, what.coco)
            evaluation = replace(evaluation, batch_size=self._batch, images=self._images)
            if self._objects == 0:
                return returned, replace(evaluation, failed=NO_LABELS)
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
            return returned, _evaluation(self.script, returned, {})
        callbacks = self.script.find("callbacks", self.namespace)
        loaders = self.script.find("data_loaded", self.namespace)
        with Collector(self.namespace, callbacks, loaders) as collector:
            returned = original(*args, **{**kwargs, "callbacks": collector.callbacks})
        return returned, _evaluation(self.script, returned, collector.figures())


def _bound(original: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name."""
    try:
        return dict(inspect.signature(original).bind_partial(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return dict(kwargs)


def _given(original: Callable[..., Any], args: Any, kwargs: Any, **others: Any) -> tuple[Any, Any]:
    """The arguments of a call with others for some of them, which v5.0 gives by position."""
    names = list(inspect.signature(original).parameters)
    places = [others.get(name, value) for name, value in zip(names, args)]
    return (*places, *args[len(places) :]), {**kwargs, **{name: one for name, one in others.items()
                                                          if name not in names[: len(args)]}}  # fmt: skip


def _as_usual(run: Run) -> Plan:
    """Measure the changed model; before it the unchanged one, if a plug-in needs it."""
    if run.needs_baseline:
        yield Measurement("baseline", changed=False, coco=True)
    yield Measurement(coco=run.needs_baseline)


def _next(plan: Plan, evaluation: Evaluation) -> Optional[Measurement]:
    """What a plan measures next, given what came out; None if it is done."""
    try:
        return plan.send(evaluation)
    except StopIteration:
        return None


def _evaluation(script: Script, returned: Any, coco: dict[str, float]) -> Evaluation:
    """The figures and times that a script's ``run`` returned."""
    results = returned if script.results_in is None else returned[script.results_in]
    figures = {name: float(value) for name, value in zip(script.results, results)}
    ms = {}
    if script.times_in is not None:
        ms = {name: float(value) for name, value in zip(script.times, returned[script.times_in])}
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
