"""Repair after channels went: least squares in the layers that read them, and new BatchNorm statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolov5_prune_plugin.core.channels.cut import Removed, readers, silence
from yolov5_prune_plugin.core.channels.groups import Group
from yolov5_prune_plugin.core.channels.layers import depthwise
from yolov5_prune_plugin.core.outputs.images import Images
from yolov5_prune_plugin.core.outputs.objective import distance, probe
from yolov5_prune_plugin.core.second_order.position_weights import PositionWeights
from yolov5_prune_plugin.core.second_order.reconstruct import images_that_fit, sequentially

MEMORY = 1 << 30
HELD = 4  # every fourth image is held out, for choosing
BATCH = 8
NAMES = {"": "nothing", "b": "BatchNorm", "l": "least squares", "lb": "least squares, BatchNorm"}

Statistics = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Repaired:
    """Which repair was kept.

    Attributes:
        distances: ``objective.distance`` to the dense model's outputs on images held out, by name of the repair.
        kept: Name of the repair with the least.
    """

    distances: dict[str, float]
    kept: str


def repair(
    dense: nn.Module, work: nn.Module, groups: Sequence[Group], removed: Removed, images: Images, seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> Repaired:  # fmt: skip
    """Silence the units that go and repair what is left, in the dense shapes; ``cut`` changes no output after it.

    With and without least squares and new BatchNorm statistics, whichever is nearest to the dense model is kept.

    Args:
        dense: The model to come close to, in eval mode.
        work: A copy of it, changed in place.
        groups: Channel groups of both.
        removed: Units that go, by name of their group.
        images: Calibration images; a fourth of them is held out for the choice; fewer than four
            repair nothing.
        seed: Seed of the projections and of drawn positions.
        progress: Called once for each layer that reads less, and once for each repair that is compared.
    """
    held = list(range(HELD - 1, len(images), HELD))
    silenced = copy.deepcopy(work)
    silence(silenced, groups, removed)
    ways = {"": silenced}
    if held:
        ways["l"] = _least_squares(work, groups, removed, images, held, seed, progress)
        before = statistics(dense, images, held)
        for way in ("", "l"):
            ways[way + "b"] = copy.deepcopy(ways[way])
            _follow(ways[way + "b"], before, statistics(ways[way + "b"], images, held))
    distances = {}
    for way, model in ways.items():
        distances[way] = _distance(dense, model, images, held)
        progress()
    # what is not finite is never better
    best = min(distances, key=lambda way: distances[way] if distances[way] == distances[way] else float("inf"))
    work.load_state_dict(ways[best].state_dict())
    return Repaired({NAMES[way]: value for way, value in distances.items()}, NAMES[best])


def _least_squares(
    model: nn.Module, groups: Sequence[Group], removed: Removed, images: Images, held: Sequence[int], seed: int,
    progress: Callable[[], None],
) -> nn.Module:  # fmt: skip
    """Each layer that reads less gives, from what it still reads, as nearly as it can what it gave.

    Positions count by what they matter to the outputs: most of an image is background, and errors there cost little.
    """
    repaired = copy.deepcopy(model)
    layers = dict(repaired.named_modules())
    masks: dict[str, Tensor] = {}
    for name, channels in readers(groups, removed).items():
        layer = layers[name]
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and not depthwise(layer)):
            mask = torch.ones_like(layer.weight, dtype=torch.bool)
            mask[:, channels] = False
            masks[f"{name}.weight"] = mask
    others = copy.deepcopy(repaired)
    silence(others, groups, removed)
    own_layers = dict(repaired.named_modules())
    for name, layer in others.named_modules():  # those that least squares does not know: transposed convolutions
        if f"{name}.weight" not in masks and isinstance(layer, nn.ConvTranspose2d):
            own_layers[name].load_state_dict(layer.state_dict())
    device = next(repaired.parameters()).device
    fit = images_that_fit(repaired, images[[0]].to(device), MEMORY)
    shapes = [[i for i in indices if i not in set(held)] for indices in images.shapes(fit)]
    chosen = [indices for indices in shapes if indices]
    position_weights = _position_weights(repaired, list(masks), images, chosen, seed)
    sequentially(repaired, masks, [images[indices].to(device) for indices in chosen], seed=seed,
                 position_weights=position_weights, progress=progress)  # fmt: skip
    return repaired


def _position_weights(
    model: nn.Module, names: Sequence[str], images: Images, chosen: Sequence[Sequence[int]], seed: int
) -> list[list[dict[str, Tensor]]]:
    """What each output position of the layers matters to the outputs, for each image of each shape."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    found = []
    for indices in chosen:
        with PositionWeights(model, names, len(indices)) as position_weights, torch.enable_grad():
            for index in indices:
                image = images[[index]].to(device).requires_grad_(True)  # so has all that comes of it
                value = probe(model(image), generator)
                if value.requires_grad:
                    torch.autograd.grad(value, image)
        found.append(position_weights.maps)
    return found


@torch.no_grad()
def statistics(model: nn.Module, images: Images, without: Sequence[int] = ()) -> Statistics:
    """Measure the mean and variance that each BatchNorm sees.

    Args:
        model: In eval mode; as before afterwards.
        images: Calibration images.
        without: Indices of images that are left out.

    Returns:
        Mean and variance, [channels] each, by name of the BatchNorm.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    states = {name: (copy.deepcopy(norm.state_dict()), norm.momentum, norm.training) for name, norm in norms.items()}
    device = next(model.parameters()).device
    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True  # None: every batch counts alike
        for indices in images.shapes(len(images)):
            left = [index for index in indices if index not in set(without)]
            for start in range(0, len(left), BATCH):
                model(images[left[start : start + BATCH]].to(device))
        found = {}
        for name, norm in norms.items():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            found[name] = norm.running_mean.clone(), norm.running_var.clone()
        return found
    finally:
        for name, norm in norms.items():
            state, norm.momentum, norm.training = states[name]
            norm.load_state_dict(state)


@torch.no_grad()
def _follow(model: nn.Module, before: Mapping[str, tuple[Tensor, Tensor]], after: Statistics) -> None:
    """Move the statistics that BatchNorms keep as those on the images moved.

    What a model keeps was counted on augmented training images, and calibration images differ from these: so the change
    is taken over, not the value.
    """
    layers = dict(model.named_modules())
    for name, (mean, variance) in after.items():
        norm, (mean0, variance0) = layers[name], before[name]
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        ratio = (variance + norm.eps) / (variance0 + norm.eps)
        norm.running_mean.copy_(mean + (norm.running_mean - mean0) * ratio.sqrt())
        norm.running_var.mul_(ratio)


@torch.no_grad()
def _distance(dense: nn.Module, model: nn.Module, images: Images, indices: Sequence[int]) -> float:
    device = next(model.parameters()).device
    values = [float(distance(dense(images[[i]].to(device)), model(images[[i]].to(device)))) for i in indices]
    return sum(values) / len(values) if values else 0.0
