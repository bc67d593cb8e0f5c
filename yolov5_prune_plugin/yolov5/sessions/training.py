"""A train.py with our flags: where its model, optimizer, average, loss and checkpoints meet the plug-ins."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import pluggy
import torch
from torch import nn

from yolov5_prune_plugin.core.training.average import bring_back, constrain_average
from yolov5_prune_plugin.core.training.ranks import check_alike
from yolov5_prune_plugin.errors import PruneError, clear_exit
from yolov5_prune_plugin.files import check_folder
from yolov5_prune_plugin.options import words
from yolov5_prune_plugin.plugin_api.run import Training
from yolov5_prune_plugin.yolov5.checkpoints import sidecar
from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import check_weights
from yolov5_prune_plugin.yolov5.checkpoints.slim_file import dense_of, note_widths
from yolov5_prune_plugin.yolov5.seams.seams import Script, package_of
from yolov5_prune_plugin.yolov5.sessions.best import Best
from yolov5_prune_plugin.yolov5.sessions.loggers import LoggedFigures
from yolov5_prune_plugin.yolov5.sessions.loss import Losses
from yolov5_prune_plugin.yolov5.sessions.saving import save, stripping
from yolov5_prune_plugin.yolov5.sessions.session import Session
from yolov5_prune_plugin.yolov5.sessions.steps import steps_of

FLAGS = "yolov5_prune"  # of our flags in opt.yaml and in checkpoints
MASKS = ("sparsity", "pruned", "spliced")  # figures of a plug-in that does not say which it has


def start(
    script: Script,
    namespace: dict[str, Any],
    options: argparse.Namespace,
    arguments: argparse.Namespace,
    plugins: pluggy.PluginManager,
    classes: Sequence[type],
) -> None:
    """Let the plug-ins check their flags; if one takes part, wrap the names of the script.

    Args:
        script: What we know of the script.
        namespace: Its globals.
        options: Our flags that were given.
        arguments: The script's own arguments.
        plugins: The plug-ins that may take part.
        classes: Dataclasses of their flags.

    Raises:
        PruneError: If flags or weights are wrong.
        UpstreamError: If the script has none of the names we know for an event.
    """
    session = configured(script, namespace, options, arguments, plugins, classes)
    if session:
        weights = str(getattr(arguments, "weights", None) or getattr(arguments, "model", "") or "")
        check_weights([weights] if weights.endswith(".pt") else [])
        session.install()


def configured(
    script: Script,
    namespace: dict[str, Any],
    options: argparse.Namespace,
    arguments: argparse.Namespace,
    plugins: pluggy.PluginManager,
    classes: Sequence[type],
) -> Optional[TrainingSession]:
    """Make a session of the plug-ins that take part; None if none does.

    Args:
        script: What we know of the script.
        namespace: Its globals.
        options: Our flags that were given, now or to the run that goes on.
        arguments: The script's own arguments.
        plugins: The plug-ins that may take part.
        classes: Dataclasses of their flags.

    Raises:
        PruneError: If flags are wrong, or this machine has fewer GPUs than there are processes.
    """
    session = TrainingSession(script, namespace, options, arguments, plugins, words(options, classes))
    _check_ranks(session.words[0])
    taking_part = session.configure()
    for plugin in taking_part:
        session.run.figures += getattr(plugin, "figures", MASKS)
    return session if taking_part else None


class TrainingSession(Session):
    """A run of a train.py; --evolve trains several times in it.

    Attributes:
        words: Our flags, as a command line has them.
    """

    def __init__(
        self,
        script: Script,
        namespace: dict[str, Any],
        options: argparse.Namespace,
        arguments: argparse.Namespace,
        plugins: pluggy.PluginManager,
        words: list[str],
    ) -> None:
        super().__init__(script, namespace, options, arguments, plugins)
        self.words, self.run.dense, self.run.load = words, dense_of, self._other
        self._hyperparameters: Any = None
        self._batches: Optional[tuple[int, int]] = None  # in an epoch, and images in one over all ranks
        self._training: Optional[Training] = None
        self._logged, self._best, self._losses = LoggedFigures(self.run), Best(), Losses(self.run, plugins.hook)

    def _other(self, file: Path) -> nn.Module:
        """The model of another checkpoint, by the script's own YOLOv5."""
        from yolov5_prune_plugin.yolov5.checkout.upstream import Upstream

        if file.suffix == ".y5z":
            from yolov5_prune_plugin.yolov5.checkpoints import y5z

            return y5z.open_model(file, self._package)[1].float().eval()
        root = Path(self.namespace["__file__"]).resolve().parents[self.script.path.count("/")]
        return Upstream(root, self._package).load(file)[1]

    def install(self) -> None:
        """Wrap the names where its model, optimizer, average, loss and checkpoints are made.

        Raises:
            UpstreamError: If the script has none of the names we know for an event.
        """
        first = "optimizer_made" if self.script.has("optimizer_made", self.namespace) else "model_made"
        seams: dict[str, Callable[[Any], Any]] = {
            first: self._given if first == "optimizer_made" else self._made,
            "training": self._around,
            "logged": self._logged.making,
            "scheduled": self._scheduling,
            "averaged": self._averaging,
            "data_loaded": self._loading,
            "judged": self._best.judging,
            "validated": self._best.validating,
            "saved": self._saving,
            "stripped": stripping,
        }
        if self._losses.needed:
            seams["loss"] = self._losses.making
        if not self.script.has("logged", self.namespace):
            del seams["logged"]  # a train.py like v5.0's has no loggers; what we count is in our own files then
        if not self.script.has("stripped", self.namespace):
            del seams["stripped"]
        self.wrap({event: wrapper for event, wrapper in seams.items() if self.script.seams.get(event)})

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def train(*args: Any, **kwargs: Any) -> Any:
            with clear_exit():
                return self.train(original, args, kwargs)

        return train

    def train(self, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Train once by the script's own function.

        Args:
            original: The function.
            args: Its arguments by position; the hyperparameters come first.
            kwargs: Its arguments by name.

        Returns:
            What the function returned.

        Raises:
            PruneError: If the weights have no model in them, or a plug-in refuses the model.
        """
        given = [*args, *kwargs.values()]
        opt = next(one for one in given if isinstance(one, argparse.Namespace))
        setattr(opt, FLAGS, self.words)  # into opt.yaml, where --resume finds them
        self.run.arguments, self.run.folder = opt, Path(opt.save_dir) / "prune"
        self._hyperparameters, self._model, self._batches, self._training = given[0], None, None, None
        self._logged.listen(given)
        if self.run.main:
            check_folder("--project", Path(opt.save_dir))
        try:
            returned = original(*args, **kwargs)
        except KeyError as error:
            if self._model is None and error.args == ("model",):
                raise PruneError("is a checkpoint without a model (no entry 'model'); give one that train.py wrote, or"
                                 " an official one", f"--weights {opt.weights}") from None  # fmt: skip
            raise
        finally:
            self._best.follow(None)
            self._losses.follow(None)
            if self._training and self._training.masked:
                self._training.masked.detach()
        if self._training:
            if self.run.main:
                sidecar.remove(self._last)  # what is left of it is for use, not for --resume
            self.plugins.hook.training_ended(run=self.run, training=self._training)
        return returned

    @property
    def _last(self) -> Path:
        return Path(self.run.arguments.save_dir) / "weights" / "last.pt"

    def _given(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def smart_optimizer(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._model, self._package = model, package_of(original)
            return original(model, *args, **kwargs)

        return smart_optimizer

    def _made(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original, updated=())
        def make(*args: Any, **kwargs: Any) -> Any:
            self._model, self._package = original(*args, **kwargs), package_of(original)
            return self._model

        return make

    def _loading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def load(*args: Any, **kwargs: Any) -> Any:
            loaded = original(*args, **kwargs)
            if self._batches is None:
                loader = loaded[0] if isinstance(loaded, tuple) else loaded
                self._batches = len(loader), loader.batch_size * int(os.environ.get("WORLD_SIZE", 1))
            return loaded

        return load

    def _scheduling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original, updated=())
        def schedule(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            scheduler = original(optimizer, *args, **kwargs)
            self._begin(optimizer)
            step = scheduler.step

            @functools.wraps(step)
            def end_epoch(*args: Any, **kwargs: Any) -> Any:
                self._end_epoch()
                return step(*args, **kwargs)

            scheduler.step = end_epoch
            return scheduler

        return schedule

    def _begin(self, optimizer: torch.optim.Optimizer) -> None:
        assert self._model is not None
        opt = self.run.arguments
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        trained = {name for name, p in self._model.named_parameters() if p.requires_grad and id(p) in held}
        resumed = self.script.resumes(opt)
        training = self._training = Training(self._model, trained, opt.epochs, resumed, optimizer)
        state = sidecar.resume(Path(opt.weights)) if resumed and self.run.figures else None
        self.plugins.hook.training_begins(run=self.run, training=training)
        if training.widths:
            note_widths(self._model, training.widths)
        self._logged.follow(training)
        self._losses.follow(self._model)
        masked = training.masked
        if state:
            tensors, facts = state
            try:
                if masked:
                    masked.load(tensors, facts["masked"])
            except PruneError as error:
                raise PruneError(f"its side-car does not fit the model: {error}", f"--resume {opt.weights}") from None
            training.history.extend(facts["history"])
        if masked:
            masked.attach(optimizer, self._steps)
            self._best.follow(masked)

    def _steps(self) -> int:
        assert self._batches is not None
        batches, size = self._batches
        source = Path(self.namespace["__file__"])
        return steps_of(self.script, source, self._hyperparameters, batches, self.run.arguments.epochs, size)

    def _end_epoch(self) -> None:
        training = self._training
        if training is None:
            return
        entry: dict[str, Any] = {"epoch": len(training.history)}
        masked = training.masked
        if masked:
            masked.check()
            check_alike(masked.masks)
            pruned, spliced = masked.take_counts()
            entry.update(step=masked.step, sparsity=masked.sparsity, pruned=pruned, spliced=spliced,
                         updates=masked.updates, **masked.figures())  # fmt: skip
        training.history.append(entry)
        self.plugins.hook.epoch_trained(run=self.run, training=training)

    def _averaging(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original, updated=())
        def average(*args: Any, **kwargs: Any) -> Any:
            ema = original(*args, **kwargs)
            update = ema.update

            @functools.wraps(update)
            def updated(*args: Any, **kwargs: Any) -> None:
                masked = self._training.masked if self._training else None
                if masked:
                    bring_back(masked, ema.ema)
                update(*args, **kwargs)
                if masked:
                    constrain_average(masked, ema.ema)

            ema.update = updated
            return ema

        return average

    def _saving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def save_it(content: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
            def write(content: Any, file: Any) -> Any:
                return original(content, file, *args, **kwargs)

            return save(write, content, file, self.run, self._training, self.words, self._best)

        return save_it


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
            f"{ranks} processes, but this machine has {gpus} GPUs, and train.py takes one for each; {advice}", flag
        )
