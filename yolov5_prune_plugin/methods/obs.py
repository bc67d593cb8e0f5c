"""--prune-method obs: second-order one-shot pruning on calibration images, without labels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.distribution import LOSS, NAMES
from yolov5_prune_plugin.core.fisher import diagonal
from yolov5_prune_plugin.core.images import Images
from yolov5_prune_plugin.core.importance import magnitude
from yolov5_prune_plugin.core.oneshot import Request, mask_of, units_to_drop
from yolov5_prune_plugin.core.reconstruct import images_that_fit, sequentially
from yolov5_prune_plugin.core.target import Target
from yolov5_prune_plugin.core.tune import Tuning, tune
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.calibration import CalibrationOptions
from yolov5_prune_plugin.options import checked, flag
from yolov5_prune_plugin.run import Run

SMOOTH = 0.1  # share of a layer's mean curvature added to each weight's: 128 images are few
BATCH = 4
MEMORY = 4 << 30  # bytes of activations during the walk


def _steps(text: str) -> int:
    if not text.isdecimal():
        raise PruneError(f"must be a number of steps, 0 for none; got {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise PruneError(f"must be a number above 0, got {text!r}")
    return value


@dataclass
class Obs:
    """Second-order pruning, --prune-method obs (yolov5-prune-plugin)."""

    prune_tune: int = flag(
        300, "steps of tuning towards the dense model's own outputs after pruning, zeros kept (default 300; 0: none)",
        type=checked(_steps), metavar="STEPS")  # fmt: skip
    prune_tune_rate: float = flag(
        2e-3, "peak learning rate of these, relative to the size of each filter's weights (default 0.002)",
        type=checked(_positive), metavar="RATE")  # fmt: skip
    prune_damp: float = flag(
        0.01, "share of its mean diagonal added to a layer's Hessian (default 0.01)", type=checked(_positive),
        metavar="SHARE")  # fmt: skip

    name: ClassVar[str] = "obs"
    distributions: ClassVar[tuple[str, ...]] = (LOSS, *NAMES)
    uses: ClassVar[tuple[type, ...]] = (CalibrationOptions,)

    def __post_init__(self) -> None:
        self._curvature: dict[str, Tensor] = {}
        self._images: Optional[Images] = None
        self.facts: dict[str, Any] = {}

    def calibrate(self, run: Run, model: nn.Module, targets: Sequence[Target]) -> None:
        """Load the images, and measure what each weight matters to the outputs; once for all loads of a run."""
        self._run, self._model = run, model
        if self._images is None:
            options: CalibrationOptions = run.config(CalibrationOptions)
            drawn = run.calibration(options.prune_calib, options.prune_calib_split, _seed(run))
            self._images = Images(drawn.batches(1))
            self.facts = {"calibration": {"images": len(self._images), "split": options.prune_calib_split},
                          "tune_steps": self.prune_tune}  # fmt: skip
        if not self._curvature:
            work = _working_copy(model)
            named = dict(work.named_parameters())
            with _normal(), self._bar("curvature", len(self._images)) as advance:
                curvature = diagonal(
                    work, [named[t.name] for t in targets], self._images.singles(), _seed(run), advance
                )
            self._curvature = {target.name: h for target, h in zip(targets, curvature)}

    def scores(self, target: Target, request: Request) -> Tensor:
        """What the outputs lose, to second order, when a weight goes: h w^2 / 2."""
        h = self._curvature[target.name]
        return (h + SMOOTH * h.mean()) * target.weight.detach().float().square() / 2

    def prune(self, targets: Sequence[Target], request: Request) -> None:
        """Choose the masks by the scores, let the rest of each layer make up for it, then tune all of them."""
        assert self._images is not None
        by_loss = request.distribution == LOSS
        spread = replace(request, distribution="global") if by_loss else request
        drop = units_to_drop(targets, self.scores if by_loss else _magnitude, spread)
        masks = {t.name: mask_of(t, self.scores(t, request), drop, request.granularity) for t in targets}
        if all(bool(mask.all()) for mask in masks.values()):
            return  # nothing goes, so there is nothing to make up for
        work = _working_copy(self._model)
        with _normal():
            device = next(work.parameters()).device
            fit = images_that_fit(work, next(self._images.singles()).to(device), MEMORY)
            batches = [batch.to(device) for batch in self._images.shapes(fit)]
            with self._bar("reconstruction", len(masks)) as advance:
                sequentially(work, masks, batches, self.prune_damp, seed=request.seed, progress=advance)
            del batches
            how = Tuning(self.prune_tune, self.prune_tune_rate, seed=request.seed)
            shuffled = self._images.epochs(BATCH, torch.Generator().manual_seed(request.seed))
            with self._bar("tuning", how.steps) as advance:
                tune(work, self._model, masks, shuffled, how, lambda loss: advance())
        with torch.no_grad():
            changed = dict(work.named_parameters())
            for name, parameter in self._model.named_parameters():
                parameter.copy_(changed[name])
            for target in targets:  # exact zeros in any precision
                target.weight.mul_(masks[target.name].to(target.weight.device))

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Any]:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not self._run.main) as bar:
            task = bar.add_task(f"obs: {what}", total=total)
            yield lambda: bar.advance(task)


@hookimpl
def prune_methods() -> list[type]:
    """Offer it."""
    return [Obs]


@contextmanager
def _normal() -> Iterator[None]:
    """Out of the inference mode in which val.py runs: its tensors know no gradients."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _working_copy(model: nn.Module) -> nn.Module:
    with _normal():
        return copy.deepcopy(model).float().eval()


def _magnitude(target: Target, request: Request) -> Tensor:
    return magnitude(target.weight)


def _seed(run: Run) -> int:
    return int(getattr(run.options, "prune_seed", 0))
