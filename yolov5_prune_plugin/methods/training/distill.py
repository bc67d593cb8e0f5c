"""train.py --distill: soft targets from the dense model, kept in the run folder as long as the training lasts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.channels.widths import fit
from yolov5_prune_plugin.core.outputs.distill import distillation
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.options import above_zero, checked, flag
from yolov5_prune_plugin.plugin_api.run import Run

WEIGHT_DETECTOR, WEIGHT_CLASSIFIER = 0.5, 1.0


@dataclass
class DistillOptions:
    """Distillation from the dense model (yolov5-prune-plugin)."""

    distill: bool = flag(False, "with --slim: the dense model's outputs are soft targets beside the labels")
    distill_weight: Optional[float] = flag(
        None, "what their loss is multiplied with before it is added (default 0.5; for classifiers 1)",
        type=checked(above_zero), metavar="W")  # fmt: skip


class Teacher:
    """Holds the dense model of one training, and compares outputs with it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        weight = run.config(DistillOptions).distill_weight
        default = WEIGHT_CLASSIFIER if run.script.startswith("classify/") else WEIGHT_DETECTOR
        self.weight = default if weight is None else weight
        self._model: Optional[nn.Module] = None
        self._pupil: Optional[nn.Module] = None  # until its anchors have been compared
        self._sum, self._batches = torch.zeros(()), 0

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

    def come_back(self, model: nn.Module) -> None:
        """Be what was kept when the run began that is resumed.

        Args:
            model: The slim one.

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

    def leave(self) -> None:
        """Forget the dense model, in memory and on disk: the training is over."""
        self._model = None
        if self.run.main:
            self.file.unlink(missing_ok=True)

    def loss(self, images: Tensor, outputs: Any) -> Tensor:
        """Compute the distillation loss of one batch, times its weight.

        Args:
            images: [B, 3, H, W].
            outputs: Of the slim model in training mode.

        Raises:
            PruneError: If upstream has given the slim model other anchors meanwhile.
        """
        assert self._model is not None
        if self._pupil:
            _check_anchors(self._model, self._pupil)
            self._pupil = None
        with torch.no_grad():
            dense = self._model(images)
        value = distillation(dense, outputs)
        self._sum = self._sum.to(value.device) + value.detach()
        self._batches += 1
        return self.weight * value

    def epoch(self) -> float:
        """Its mean over the batches of the epoch that is over; said too."""
        mean = float(self._sum) / max(1, self._batches)
        self._sum, self._batches = torch.zeros(()), 0
        if self.run.main:
            print(f"yolov5-prune: distillation loss {mean:.4g}, times {self.weight:g}", flush=True)
        return mean


def _check_anchors(dense: nn.Module, slim: nn.Module) -> None:
    """Raw boxes are relative to anchors."""
    theirs = dict(slim.named_buffers())
    for name, anchors in dense.named_buffers():
        alike = torch.allclose(anchors.float(), theirs[name].float(), rtol=0.01) if name.endswith(".anchors") else True
        if not alike:
            raise PruneError("--distill: AutoAnchor gave the slim model other anchors than the dense one, so its boxes"
                             " are no targets; add --noautoanchor")  # fmt: skip
