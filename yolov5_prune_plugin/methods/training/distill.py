"""train.py --distill: soft targets from the model as given, kept in the run folder as long as the training lasts.

With --distill-from, from another model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.channels.widths import fit
from yolov5_prune_plugin.core.outputs.distill import distillation
from yolov5_prune_plugin.core.outputs.unlabelled import Unlabelled, images_in
from yolov5_prune_plugin.core.training.ranks import rank
from yolov5_prune_plugin.errors import PruneError, named, near_file
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.options import above_zero, checked, flag
from yolov5_prune_plugin.plugin_api.methods import training_methods
from yolov5_prune_plugin.plugin_api.run import Run, Training

WEIGHT_DETECTOR, WEIGHT_CLASSIFIER = 0.5, 1.0


@dataclass
class DistillOptions:
    """Distillation from a dense model (yolov5-prune-plugin)."""

    distill: bool = flag(
        False, "with any way to a smaller model: the outputs of the model as given, before channels or weights go, are"
        " soft targets beside the labels")  # fmt: skip
    distill_from: Optional[Path] = flag(
        None, "those of this model instead, of the same classes and anchors: a larger one, say; needs no other flag",
        type=Path, metavar="FILE")  # fmt: skip
    distill_images: Optional[Path] = flag(
        None, "with a teacher: images of this folder, which need no labels, are looked at too: as many a batch as the"
        " training has, by what the teacher says of them; a step takes about twice as long", type=Path,
        metavar="DIR")  # fmt: skip
    distill_weight: Optional[float] = flag(
        None, "what their loss is multiplied with before it is added (default 0.5; for classifiers 1)",
        type=checked(above_zero), metavar="W")  # fmt: skip


def make_plugin(hook: Any) -> Distillation:
    """Make what answers the events: it asks the other plug-ins for their ways of training."""
    return Distillation(hook)


class Distillation:
    """Offers the flags, and has a teacher take part where one was asked for."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook

    @hookimpl
    def options(self, role: str) -> list[type]:
        """In every train.py."""
        return [DistillOptions] if role == "train" else []

    @hookimpl
    def configure(self, run: Run) -> Optional[object]:
        """Check the flags before anything is loaded.

        Raises:
            PruneError: If there is nothing to teach, or no such teacher.
        """
        options: DistillOptions = run.config(DistillOptions) if run.role == "train" else DistillOptions()
        if options.distill_weight is not None and not (options.distill or options.distill_from):
            raise PruneError("--distill-weight needs --distill or --distill-from FILE")
        if options.distill_images is not None:
            if not (options.distill or options.distill_from):
                raise PruneError("--distill-images needs a teacher: --distill or --distill-from FILE")
            with named(f"--distill-images {options.distill_images}"):
                images_in(options.distill_images)
        if options.distill_from is not None:
            if options.distill_from.suffix not in (".pt", ".y5z"):
                raise PruneError("must be weights, .pt or .y5z", f"--distill-from {options.distill_from}")
            if not options.distill_from.is_file():
                raise PruneError(f"no such file{near_file(options.distill_from)}",
                                 f"--distill-from {options.distill_from}")  # fmt: skip
            return DistilledTraining(run)
        if not options.distill:
            return None
        ways = training_methods(self._hook)
        if getattr(run.options, "slim", None) is None and not any(cls.asked_for(run) for cls in ways.values()):
            raise PruneError(f"--distill needs a way to a smaller model, for the model as given to teach: --slim S,"
                             f" {', '.join(cls.how_to_ask or flag for flag, cls in ways.items())}; or give another"
                             " teacher by --distill-from FILE")  # fmt: skip
        return DistilledTraining(run)


class DistilledTraining:
    """Takes part in one run of a train.py."""

    figures: tuple[str, ...] = ("distill",)

    def __init__(self, run: Run) -> None:
        self.run, self.teacher = run, Teacher(run)

    @hookimpl(tryfirst=True)
    def training_begins(self, training: Training) -> None:
        """Keep the model as it is given, before anything of it goes."""
        other = self.run.config(DistillOptions).distill_from
        if other is not None:
            self.teacher.be(other, training.model)
        elif training.resumed:
            self.teacher.come_back(training.model)
        else:
            self.teacher.learn(training.model)
        self.teacher.look_further(training.model)

    @hookimpl
    def added_loss(self, images: Tensor, outputs: object) -> Tensor:
        """What the teacher has to say."""
        return self.teacher.loss(images, outputs)

    @hookimpl(tryfirst=True)
    def epoch_trained(self, training: Training) -> None:
        """Note how far from the teacher it was."""
        training.history[-1]["distill"] = self.teacher.epoch()

    @hookimpl
    def training_ended(self) -> None:
        """The teacher is not needed any more."""
        self.teacher.leave()


class Teacher:
    """Holds the model that teaches one training, and compares outputs with it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        options: DistillOptions = run.config(DistillOptions)
        default = WEIGHT_CLASSIFIER if run.script.startswith("classify/") else WEIGHT_DETECTOR
        self.weight = default if options.distill_weight is None else options.distill_weight
        self.flag = f"--distill-from {options.distill_from}" if options.distill_from else "--distill"
        self._model: Optional[nn.Module] = None
        self._pupil: Optional[nn.Module] = None  # until its anchors have been compared
        self._sum, self._batches = torch.zeros(()), 0
        self._further: Optional[Unlabelled] = None
        self._further_pupil: Optional[nn.Module] = None

    @property
    def file(self) -> Path:
        """Where its weights are, for --resume."""
        assert self.run.folder is not None
        return self.run.folder / "dense.safetensors"

    def learn(self, model: nn.Module) -> None:
        """Be what a model is now, before it is cut.

        Raises:
            PruneError: If its weights can't be kept.
        """
        from safetensors.torch import save_file

        self._model, self._pupil = copy.deepcopy(model).eval().requires_grad_(False), model
        if not self.run.main or not hasattr(self.run.arguments, "resume"):
            return
        weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.file) as place:
                save_file(weights, place)
        except OSError as error:
            raise PruneError(f"--distill: the dense model cannot be kept in {self.file.parent}: {error}") from error

    def be(self, file: Path, model: nn.Module) -> None:
        """Be the model in a file.

        Args:
            file: Weights.
            model: That is taught.

        Raises:
            PruneError: If it can't be loaded.
        """
        with named(self.flag):
            teacher = self.run.load(file)
        self._model = teacher.to(next(model.parameters()).device).eval().requires_grad_(False)
        self._pupil = model

    def come_back(self, model: nn.Module) -> None:
        """Be what was kept when the run began that is resumed.

        Args:
            model: The one that is taught.

        Raises:
            PruneError: If it is not there, or not of this architecture.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.file.is_file():
            raise PruneError(f"--resume: {self.file}, the dense model that --distill learns from, is missing; copy it"
                             " together with the run, or start anew from last.pt with --weights")  # fmt: skip
        try:
            dense = self.run.dense(model)
            fit(dense, load_file(self.file))
        except (SafetensorError, OSError, ValueError) as error:
            raise PruneError(f"--resume: {self.file} does not hold the dense model of this run:"
                             f" {' '.join(str(error).split())[:200]}") from None  # fmt: skip
        self._model = dense.to(next(model.parameters()).device).eval().requires_grad_(False)
        self._pupil = model

    def look_further(self, pupil: nn.Module) -> None:
        """Teach on images without labels, too, if there are any.

        Args:
            pupil: The model that is taught.

        Raises:
            PruneError: If they are gone.
        """
        folder = self.run.config(DistillOptions).distill_images
        if folder is None:
            return
        field = f"--distill-images {folder}"
        with named(field):
            files = images_in(folder)
        seed = int(getattr(self.run.arguments, "seed", 0) or 0) + rank()
        self._further = Unlabelled(files, seed, self.run.script.startswith("classify/"), field)
        self._further_pupil = pupil
        if self.run.main:
            print(f"yolov5-prune: {len(files):,} images without labels are looked at, too", flush=True)

    def leave(self) -> None:
        """Forget the dense model, in memory and on disk: the training is over."""
        self._model = self._further_pupil = None
        if self._further:
            self._further.close()
        if self.run.main:
            self.file.unlink(missing_ok=True)

    def loss(self, images: Tensor, outputs: Any) -> Tensor:
        """Compute the distillation loss of one batch, times its weight; with images without labels, the mean of both.

        Args:
            images: [B, 3, H, W].
            outputs: Of the model in training mode.

        Raises:
            PruneError: If the teacher has other classes or outputs, or upstream has given the model other anchors
                than the teacher's meanwhile.
        """
        assert self._model is not None
        if self._pupil:
            with named(self.flag):
                if self.run.config(DistillOptions).distill_from:
                    _check_classes(self._model, self._pupil)
                _check_anchors(self._model, self._pupil)
            self._pupil = None
        value = self._compared(images, outputs)
        if self._further and self._further_pupil is not None:
            more = self._further.batch(images)
            value = (value + self._compared(more, self._further_pupil(more))) / 2
        self._sum = self._sum.to(value.device) + value.detach()
        self._batches += 1
        return self.weight * value

    def _compared(self, images: Tensor, outputs: Any) -> Tensor:
        assert self._model is not None
        with torch.no_grad():
            dense = self._model(images)
        try:
            return distillation(dense, outputs)
        except (ValueError, RuntimeError) as error:
            raise PruneError(f"its outputs are no targets: {' '.join(str(error).split())[:200]}", self.flag) from error

    def epoch(self) -> float:
        """Its mean over the batches of the epoch that is over; said too."""
        mean = float(self._sum) / max(1, self._batches)
        self._sum, self._batches = torch.zeros(()), 0
        if self.run.main:
            print(f"yolov5-prune: distillation loss {mean:.4g}, times {self.weight:g}", flush=True)
        return mean


def _check_classes(teacher: nn.Module, pupil: nn.Module) -> None:
    """They are compared by their places; a teacher whose classes have no names but numbers may have any."""
    names = [_names(model) for model in (teacher, pupil)]
    numbers = [str(index) for index in range(len(names[1]))]
    if all(names) and names[0] not in (names[1], numbers):
        raise PruneError(f"its classes are {_said(names[0])}, those of the data {_said(names[1])}; a teacher needs the"
                         " same, in the same order")  # fmt: skip


def _check_anchors(teacher: nn.Module, pupil: nn.Module) -> None:
    """Raw boxes are relative to them."""
    theirs, ours = ([b.float() for name, b in model.named_buffers() if name.rpartition(".")[2] == "anchors"]
                    for model in (teacher, pupil))  # fmt: skip
    shapes = [[tuple(anchors.shape) for anchors in some] for some in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise PruneError(f"it has anchors of the shapes {shapes[0]}, the model {shapes[1]}; a teacher needs as many, on"
                         " maps of as many strides")  # fmt: skip
    if not all(torch.allclose(a.to(b.device), b, rtol=0.01) for a, b in zip(theirs, ours)):
        raise PruneError("the model has other anchors than its teacher, so the teacher's boxes are no targets; if"
                         " AutoAnchor made them, add --noautoanchor")  # fmt: skip


def _names(model: nn.Module) -> list[str]:
    names = getattr(model, "names", None) or []
    return list(map(str, names.values() if isinstance(names, dict) else names))


def _said(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
