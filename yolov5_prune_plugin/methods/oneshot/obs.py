"""--prune-method obs: second-order one-shot pruning on calibration images, without labels."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.channels.permute import Permutation, permute
from yolov5_prune_plugin.core.outputs.images import Images
from yolov5_prune_plugin.core.outputs.objective import balance_of, class_totals, distance
from yolov5_prune_plugin.core.pruning.chooser import Table, interpolated
from yolov5_prune_plugin.core.pruning.distribution import LOSS, NAMES
from yolov5_prune_plugin.core.pruning.granularity import Granularity, nm_mask
from yolov5_prune_plugin.core.pruning.importance import magnitude
from yolov5_prune_plugin.core.pruning.mask import lowest_dropped
from yolov5_prune_plugin.core.pruning.oneshot import Request, mask_of, units_to_drop
from yolov5_prune_plugin.core.pruning.parameters import Target
from yolov5_prune_plugin.core.second_order.fisher import diagonal
from yolov5_prune_plugin.core.second_order.position_weights import PositionWeights
from yolov5_prune_plugin.core.second_order.reconstruct import images_that_fit, losses, sequentially
from yolov5_prune_plugin.core.second_order.tune import Tuning, tune
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot.calibration import CalibrationOptions
from yolov5_prune_plugin.options import above_zero, checked, flag, whole_from
from yolov5_prune_plugin.plugin_api.methods import Method
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.reporting.console import lasting_bar

SMOOTH = 0.1  # share of a layer's mean curvature added to each weight's: 128 images are few
BATCH = 4
SIDE = 384  # pixels, at most, of the parts of images that are tuned on: as good as whole ones, in half the time
STEPS, STEPS_PATTERN = 200, 600  # of tuning; blocks, and patterns such as 2:4, do more harm
HELD = 8  # one in so many images judges the tuning and is not tuned on
MEASURED = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)  # amounts of a layer that its losses are computed for
TRACED = 128  # pixels, at most, of the image by which channel groups are found
MEMORY = 4 << 30  # bytes of activations while layers are calibrated one after the other


@dataclass
class Obs(Method):
    """Second-order pruning, --prune-method obs (yolov5-prune-plugin)."""

    prune_tune: Optional[int] = flag(
        None, "steps of tuning towards the dense model's own outputs after pruning, zeros kept (default 200, for N:M"
        " patterns and blocks 600; 0: none)", type=whole_from(0), metavar="STEPS")  # fmt: skip
    prune_tune_rate: float = flag(
        2e-3, "peak learning rate of these where pruning did much harm, relative to the size of each filter's weights;"
        " less in proportion where it did less (default 0.002)",
        type=checked(above_zero), metavar="RATE")  # fmt: skip
    prune_damp: float = flag(
        0.01, "share of its mean diagonal added to a layer's Hessian (default 0.01)", type=checked(above_zero),
        metavar="SHARE")  # fmt: skip

    prune_balance: str = flag(
        "objects", "what losses count: objects (default: each object alike, so frequent classes most) or classes (each"
        " class alike, as in mAP; by the model's own detections)", choices=("objects", "classes"))  # fmt: skip
    prune_permute: str = flag(
        "search", "N:M patterns and blocks: search (default) for an order of channels in which less has to go, which"
        " leaves the model's outputs as they are, or leave it: off", choices=("search", "off"))  # fmt: skip

    name: ClassVar[str] = "obs"
    distributions: ClassVar[tuple[str, ...]] = (LOSS, *NAMES)
    shared_options: ClassVar[tuple[type, ...]] = (CalibrationOptions,)

    def __post_init__(self) -> None:
        self._curvature: dict[str, Tensor] = {}
        self._ordered: Mapping[str, Tensor] = {}  # the same, in the order of the channels of the model at hand
        self.order: Optional[Permutation] = None
        self._searched = False  # for an order
        self._in_order = False  # whether the model at hand has it
        self._position_weights: list[dict[str, Tensor]] = []
        self._images: Optional[Images] = None
        self._balance: Optional[Tensor] = None
        self._tables: dict[str, Table] = {}
        self.facts: dict[str, Any] = {}

    def calibrate(self, run: Run, model: nn.Module, targets: Sequence[Target]) -> None:
        """Load the images, and measure what each weight matters to the outputs; once for all loads of a run."""
        self._run, self._model, self._in_order = run, model, False
        if self._images is None:
            options: CalibrationOptions = run.config(CalibrationOptions)
            drawn = run.calibration(options.prune_calib, options.prune_calib_split, _seed(run))
            self._images = Images(drawn.batches(1))
            split = options.prune_calib_split
            self.facts = {"calibration": {"images": len(self._images), "split": split}}
        if not self._curvature:
            work = _working_copy(model)
            self._balance = self._class_balance(work) if self.prune_balance == "classes" else None
            named, names = dict(work.named_parameters()), [target.name for target in targets]
            with _normal(), self._bar("curvature", len(self._images)) as advance:
                first = next(self._images.singles()).to(next(work.parameters()).device)
                fit = images_that_fit(work, first, MEMORY)
                with PositionWeights(work, names, fit) as position_weights:
                    weights = [named[name] for name in names]
                    curvature = diagonal(work, weights, self._images.singles(), _seed(run), advance, self._balance)
            self._curvature, self._position_weights = dict(zip(names, curvature)), position_weights.maps
        self._ordered = self._curvature

    def scores(self, target: Target, request: Request) -> Tensor:
        """What the outputs lose, to second order, when a weight goes: h w^2 / 2."""
        h = self._ordered[target.name]
        return (h + SMOOTH * h.mean()) * target.weight.detach().float().square() / 2

    def losses(self, target: Target, request: Request) -> Tensor:
        """The scores, which are losses."""
        return self.scores(target, request)

    def tables(self, targets: Sequence[Target], request: Request, uses: Mapping[str, int]) -> dict[str, Table]:
        """Geometric means of two losses: by curvature alone, and when the rest of a layer has made up for what goes.

        The first knows nothing of what can be made up for, the second nothing of errors that add up over layers and of
        images that it has not seen: held-out outputs stay nearer to the dense model's by their mean than by either.
        """
        self._order_channels(targets, request)
        alone = super().tables(targets, request, uses)
        grain = request.granularity
        if grain.kind == "channel":
            return alone
        if self._tables:  # of an earlier load of the same model
            return self._tables
        assert self._images is not None
        units = {target.name: grain.units(target.weight, target.groups) for target in targets}
        groups = {target.name: target.groups for target in targets}

        def pattern(name: str, amount: float, scores: Tensor, share: float) -> Tensor:
            return _pattern(grain, {name: round(amount * units[name])}, groups, name, scores, share)

        amounts = {target.name: MEASURED for target in targets}
        with _normal(), self._bar("losses by layer", len(targets)) as advance:
            work = _working_copy(self._model)
            batches, position_weights = self._batches(work)
            made_up = losses(work, amounts, batches, self._ordered, pattern, self.prune_damp, seed=request.seed,
                             position_weights=position_weights, progress=advance)  # fmt: skip
        tables = self._tables
        for name, table in alone.items():
            points = (0.0, *MEASURED)
            rising = tuple(itertools.accumulate((0.0, *made_up[name]), max))
            known = tuple(amount for amount in table.amounts if amount <= MEASURED[-1])
            filled = interpolated(Table(points, rising, points), known)
            both = tuple((one * other) ** 0.5 for one, other in zip(table.losses, filled.losses))
            tables[name] = Table(known, both, table.costs[: len(known)])
        return tables

    def prune(self, targets: Sequence[Target], request: Request) -> None:
        """Choose the masks by the scores, let the rest of each layer make up for it, then tune all of them."""
        assert self._images is not None
        self._order_channels(targets, request)
        by_loss = request.distribution == LOSS
        spread = replace(request, distribution="global") if by_loss else request
        drop = units_to_drop(targets, self.scores if by_loss else _magnitude, spread)
        masks = {t.name: mask_of(t, self.scores(t, request), drop, request.granularity) for t in targets}
        if all(bool(mask.all()) for mask in masks.values()):
            return  # nothing goes, so there is nothing to make up for
        work = _working_copy(self._model)
        with _normal():
            batches, position_weights = self._batches(work)
            groups = {target.name: target.groups for target in targets}
            channels = request.granularity.kind == "channel"
            pattern = None if channels else partial(_pattern, request.granularity, drop, groups)
            with self._bar("reconstruction", len(masks)) as advance:
                sequentially(
                    work, masks, batches, self.prune_damp, seed=request.seed, position_weights=position_weights,
                    curvature=self._ordered, pattern=pattern, progress=advance,
                )  # fmt: skip
            del batches
            steps = STEPS_PATTERN if request.granularity.m or request.granularity.rows else STEPS
            steps = steps if self.prune_tune is None else self.prune_tune
            if steps:
                self._tune(work, masks, request.seed, steps)
        with torch.no_grad():
            changed = dict(work.named_parameters())
            for name, parameter in self._model.named_parameters():
                parameter.copy_(changed[name])
            for target in targets:  # exact zeros in any precision
                target.weight.mul_(masks[target.name].to(target.weight.device))

    def _class_balance(self, work: nn.Module) -> Optional[Tensor]:
        """What an object of each class counts; None where there are no classes to balance."""
        assert self._images is not None
        device, totals = next(work.parameters()).device, []
        with _normal(), self._bar("classes", len(self._images)) as advance:
            for image in self._images.singles():
                found = class_totals(work(image.to(device)))
                if found is None:
                    return None
                totals.append(found)
                advance()
        return balance_of(torch.stack(totals).sum(0))

    def _batches(self, work: nn.Module) -> tuple[list[Tensor], list[list[dict[str, Tensor]]]]:
        """The images that fit, a batch a shape, and what the positions of each matter."""
        assert self._images is not None
        device = next(work.parameters()).device
        chosen = self._images.shapes(len(self._position_weights))
        weights = [[self._position_weights[index] for index in indices] for indices in chosen]
        return [self._images[indices].to(device) for indices in chosen], weights

    def _order_channels(self, targets: Sequence[Target], request: Request) -> None:
        """Give channels an order in which the pattern drops less, and the curvature the same; once for each load."""
        grain = request.granularity
        if self._in_order or self.prune_permute == "off" or not (grain.m or grain.rows):
            return
        self._in_order = True
        if not self._searched:
            self._searched, self.order = True, self._search_order(targets, request)
        done = self.order
        if done is None:
            return
        done.apply(self._model)
        self._ordered = {name: done.applied(name, h) for name, h in self._curvature.items()}

    def _search_order(self, targets: Sequence[Target], request: Request) -> Optional[Permutation]:
        assert self._images is not None
        grain = request.granularity
        scores = {target.name: self.scores(target, request) for target in targets
                  if grain.m or target.groups == 1}  # fmt: skip
        with _normal(), ExitStack() as bars:
            work = _working_copy(self._model)
            image = next(self._images.singles()).to(next(work.parameters()).device)
            size = [min(side, TRACED) for side in image.shape[2:]]
            try:
                done = permute(work, nn.functional.interpolate(image, size), scores, grain,
                               lambda total: bars.enter_context(self._bar("channel permutation", total)))  # fmt: skip
                reason = "" if done else "the model's outputs did not stay the same"
            except PruneError as error:
                done, reason = None, str(error)
        if done is None:
            self.facts["permutation"] = {"left_out": reason}
            print(f"yolov5-prune: channels are pruned in the order that they have: {reason}", file=sys.stderr)
            return None
        self.facts["permutation"] = done.facts()
        return done

    def _tune(self, work: nn.Module, masks: Mapping[str, Tensor], seed: int, steps: int) -> None:
        """Tune on most of the images; what does not help on the others, which it did not see, is taken back."""
        assert self._images is not None
        held = list(range(len(self._images) - len(self._images) // HELD, len(self._images)))
        before = self._distance(work, held)
        rate = self.prune_tune_rate * min(1.0, before)
        kept = copy.deepcopy(work.state_dict())
        parts = self._images.epochs(BATCH, torch.Generator().manual_seed(seed), held, SIDE)
        with self._bar("tuning", steps) as advance:
            tune(work, self._model, masks, parts, Tuning(steps, rate, seed=seed), lambda loss: advance(), self._balance)
        after = self._distance(work, held)
        if held and not after < before:
            work.load_state_dict(kept)
        self.facts["tuning"] = {"steps": steps, "rate": rate, "held_images": len(held), "before": before,
                                "after": after, "kept": not held or after < before}  # fmt: skip

    def _distance(self, work: nn.Module, indices: Sequence[int]) -> float:
        """Mean distance of the outputs on some images to the dense model's, >= 0; 1 if there are none."""
        assert self._images is not None
        some = next(work.parameters())
        dtype = next(self._model.parameters()).dtype
        values = []
        for index in indices:
            image = self._images[[index]].to(some.device)
            values.append(float(distance(self._model(image.to(dtype)), work(image), self._balance)))
        # rounding makes divergences of outputs that are alike slightly negative
        return max(0.0, sum(values) / len(values)) if values else 1.0

    def _bar(self, what: str, total: int) -> AbstractContextManager[Any]:
        return lasting_bar(f"obs: {what}", total, shown=self._run.main)


@hookimpl
def prune_methods() -> list[type]:
    """Offer ``--prune-method obs``."""
    return [Obs]


@contextmanager
def _normal() -> Iterator[None]:
    """Out of the inference mode in which val.py runs: its tensors know no gradients."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _working_copy(model: nn.Module) -> nn.Module:
    with _normal():
        return copy.deepcopy(model).float().eval()


def _pattern(
    grain: Granularity, drop: Mapping[str, int], groups: Mapping[str, int], name: str, scores: Tensor, share: float
) -> Tensor:
    """The mask of a layer with a share of what is to go gone, lowest scores first."""
    if not grain.m:
        units = grain.unit_scores(scores, groups[name])
        return grain.to_weights(lowest_dropped(units, round(share * drop[name])), scores, groups[name])
    mask = nm_mask(scores, grain.n, grain.m)
    return mask if share == 1 else mask | lowest_dropped(scores.flatten(), round(share * scores.numel())).view_as(mask)


def _magnitude(target: Target, request: Request) -> Tensor:
    return magnitude(target.weight)


def _seed(run: Run) -> int:
    return int(getattr(run.options, "prune_seed", 0))
