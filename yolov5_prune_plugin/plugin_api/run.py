"""What a plug-in gets to see of a run: the script, its arguments, our options, and what it may ask for."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from yolov5_prune_plugin.options import build, given, with_flags

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from yolov5_prune_plugin.core.pruning.parameters import Selection
    from yolov5_prune_plugin.core.pruning.sparsity import Sparsity
    from yolov5_prune_plugin.core.training.masked import Masked


@dataclass(frozen=True)
class Evaluation:
    """What a script measured of its model.

    Attributes:
        figures: By name, in the script's order: precision, recall, map50, map; or top1, top5; each in [0, 1].
        ms: Milliseconds per image by phase: preprocess, inference, nms; empty if the script returns none.
        coco: The twelve COCO figures by name; empty if they can't be had.
        batch_size: Images in a batch of the run that counts; None if the script has no such argument.
        failed: Why the figures are not a measurement; empty if they are one.
        images: How many were measured on; None if that is not known.
    """

    figures: dict[str, float]
    ms: dict[str, float] = field(default_factory=dict)
    coco: dict[str, float] = field(default_factory=dict)
    batch_size: Optional[int] = None
    failed: str = ""
    images: Optional[int] = None


@dataclass(frozen=True)
class Measurement:
    """One validation that a plug-in asks for.

    Attributes:
        folder: Where the script writes its own files, below ``Run.folder``; empty is the run folder itself.
        changed: False measures the model as its file has it: the event ``model_loaded`` does not come.
        weights: Another checkpoint than --weights.
        coco: Whether the twelve COCO figures are wanted too.
    """

    folder: str = ""
    changed: bool = True
    weights: Optional[Path] = None
    coco: bool = False


@dataclass(frozen=True)
class Saved:
    """What ``Run.save`` wrote.

    Attributes:
        file: The checkpoint.
        weights: ``unfused`` or ``fused``: which weights it holds.
        largest_difference: Between a weight of the model in memory and the same one reloaded by the script's loader.
        bytes: Size of the file.
    """

    file: Path
    weights: str
    largest_difference: float
    bytes: int


@dataclass(frozen=True)
class Calibration:
    """Images for a method to look at, without labels, as the script would feed them to its model.

    It may be read as often as wanted; the same arguments give the same images in the same order.

    Attributes:
        files: The images, in the order in which they come.
        open: Reads them anew, in batches of a size; ``batches`` is what to call.
    """

    files: list[str]
    open: Callable[[int], Iterator[Tensor]] = field(repr=False)

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self.files)

    def batches(self, size: int = 8) -> Iterator[Tensor]:
        """Batches [B, 3, H, W] on the model's device and in its precision; H and W may differ between batches.

        Args:
            size: Images in a batch, at least 1; the last may be smaller.

        Yields:
            Values in [0, 1]; for a classifier normalised, as upstream does it.
        """
        return self.open(size)

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches()


@dataclass
class Training:
    """One training of a model.

    Attributes:
        model: As the script made it, with the weights it starts from.
        trained: Names of the parameters that the optimizer trains; the others are frozen, or not its business.
        epochs: How many are asked for.
        resumed: Whether it goes on where an interrupted one was; its masks are put back after ``training_begins``.
        masked: A plug-in sets it in ``training_begins`` to have weights masked.
        selection: And with it what it found, for counting zeros.
        optimizer: The optimizer, before its first step; None where there is none to see.
        widths: Layers that a plug-in cut in ``training_begins``, as ``channels.widths.widths_left`` has them; they are
            kept in every checkpoint, so that train.py builds its model in them when it goes on or starts from it.
        history: One entry a finished epoch: epoch, and with masks step, sparsity (of the masked weights), pruned,
            spliced, updates; a plug-in adds the figures of its own in ``epoch_trained``.
        saved: Zeros of the model in each checkpoint that was written, by file name, as it is kept in the end.
        uses: How often each weight is used for one image, by name, for counting multiplications by zeros; a plug-in
            sets it with ``masked``.
    """

    model: nn.Module
    trained: set[str]
    epochs: int
    resumed: bool = False
    optimizer: Optional[torch.optim.Optimizer] = None
    widths: dict[str, dict[str, int]] = field(default_factory=dict)
    masked: Optional[Masked] = None
    selection: Optional[Selection] = None
    history: list[dict[str, Any]] = field(default_factory=list)
    saved: dict[str, Sparsity] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def _not_saved(model: Any, names: list[str], file: Path, facts: dict[str, Any]) -> Saved:
    raise RuntimeError("there is no script whose model could be saved")


def _not_built(model: Any) -> Any:
    raise RuntimeError("other models can be had in train.py")


def _not_yet(images: int, split: str, seed: int) -> Calibration:
    raise RuntimeError("calibration images can be had from the event model_loaded on")


@dataclass
class Run:
    """One run of one script.

    Attributes:
        script: Path relative to the checkout, such as ``segment/val.py``.
        role: ``validate``, ``use``, ``export`` or ``train``.
        arguments: The script's own arguments, as it parsed them.
        options: Our flags that were given.
        main: False in all but the first process of a distributed run; files and tables are the first one's.
        folder: Where the run writes its files; known from ``model_loaded`` on.
        figure: The figure of an evaluation that a model is judged by: map, mask_map or top1; empty if there is none.
        figures: Names in each entry of ``Training.history`` that go where upstream logs. If there are any, the history
            is kept beside last.pt for --resume.
        needs_baseline: A plug-in sets it to have the unchanged model measured first.
        save: Writes the model as an upstream checkpoint: (model, names of changed weights, file, facts) -> Saved.
        dense: Builds the architecture of a model as it was before any channel of it was removed, with other weights; in
            train.py.
        load: Loads the model of another checkpoint, in float32 and in eval mode; in train.py.
        given_names: What was given as weights, by the checkpoint that was made of it: of a .y5z file.
        started: What started the script: ``("python", "val.py")`` or ``("yolov5-prune", "run", "yolov5.val")``.
        words: The rest of its command line, our flags included.
        calibration: Draws images from the data set, from ``model_loaded`` on: (number, split, seed) -> Calibration.
    """

    script: str
    role: str
    arguments: argparse.Namespace
    options: argparse.Namespace
    main: bool
    save: Callable[[Any, list[str], Path, dict[str, Any]], Saved] = _not_saved
    folder: Optional[Path] = None
    figure: str = ""
    figures: list[str] = field(default_factory=list)
    needs_baseline: bool = False
    dense: Callable[[Any], Any] = _not_built
    load: Callable[[Path], Any] = _not_built
    given_names: Mapping[str, str] = field(default_factory=dict)
    started: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    calibration: Callable[[int, str, int], Calibration] = _not_yet

    def given(self, cls: type) -> list[str]:
        """The flags of one of our dataclasses that were given."""
        return given(self.options, cls)

    def config(self, cls: type) -> Any:
        """One of our dataclasses, filled from the flags given and its defaults."""
        return build(self.options, cls)

    def command(self, script: str, *arguments: str) -> str:
        """Write a command line for a script of the same YOLOv5, started the same way.

        Args:
            script: Path relative to the checkout; ``train.py``, say, is the one for the task of this run.
            arguments: Its arguments.
        """
        *before, target = self.started or ("python", self.script)
        folder = self.script.rpartition("/")[0]
        path = f"{folder}/{script}" if folder and "/" not in script else script
        if target.endswith(self.script):
            target = target[: -len(self.script)] + path
        else:  # a module
            target = target.removesuffix(_dotted(self.script)) + _dotted(path)
        return shlex.join([*before, target, *arguments])

    def again(self, *flags: str) -> str:
        """Write the command line of this run with other flags in it.

        Args:
            flags: Flags with their values; those that the run had are replaced.
        """
        return self.command(self.script, *with_flags(self.words, *flags))

    def image_size(self, model: nn.Module) -> Optional[tuple[int, int]]:
        """Height and width of --imgsz in pixels, up to the model's stride as scripts have it; None without --imgsz."""
        size = getattr(self.arguments, "imgsz", None) or getattr(self.arguments, "img_size", None)
        if not size:
            return None
        sides = [int(side) for side in (size if isinstance(size, (list, tuple)) else [size])]
        strides = getattr(model, "stride", None)
        stride = 1 if strides is None else max(1, int(max(strides)))
        return math.ceil(sides[0] / stride) * stride, math.ceil(sides[-1] / stride) * stride

    @property
    def weights(self) -> list[str]:
        """The script's --weights, always as a list."""
        weights = getattr(self.arguments, "weights", None) or []
        names = [str(w) for w in (weights if isinstance(weights, (list, tuple)) else [weights])]
        return [self.given_names.get(name, name) for name in names]
