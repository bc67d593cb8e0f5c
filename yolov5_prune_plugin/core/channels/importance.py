"""Importance of each unit of a channel group: from the weights alone, or from images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolov5_prune_plugin.core.channels.groups import Group, Member
from yolov5_prune_plugin.core.channels.layers import weight_axis
from yolov5_prune_plugin.core.outputs.objective import probe
from yolov5_prune_plugin.errors import PruneError

BY_WEIGHTS = ("l1", "l2", "bn", "lamp")
BY_IMAGES = ("taylor", "second")
IMPORTANCES = (*BY_WEIGHTS, *BY_IMAGES)
EPS = 1e-12


def score_units(
    model: nn.Module,
    groups: Sequence[Group],
    kind: str,
    images: Iterable[Tensor] = (),
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Score the units of channel groups, comparably within a group and between groups; the lowest go first.

    * ``l1``, ``l2``: the mean over the layers of the group of the unit's norm there, each layer's divided by its mean.
    * ``bn``: the mean |gamma| of the BatchNorms of the group (Network Slimming), as it is.
    * ``lamp``: squared l2 over the sum of those that are not smaller.
    * ``taylor``: E[(sum of w dv/dw)^2] over the parameters of the unit's BatchNorms, or filters where there are none.
    * ``second``: E[sum of (w dv/dw)^2] over the same, the diagonal: Optimal Brain Damage.

    v is a random projection of the outputs (``objective.probe``), so that the last two are what the detections lose
    to second order when the unit goes, with and without the terms between its weights. No labels are needed.

    Args:
        model: In eval mode, float32.
        groups: Channel groups of the model.
        kind: One of ``IMPORTANCES``.
        images: Batches [1, 3, H, W], for those in ``BY_IMAGES``.
        seed: Seed of the projections.
        progress: Called after each image.

    Returns:
        [units] >= 0 by name of the group.

    Raises:
        PruneError: If ``bn`` meets a group without BatchNorm scales, or something is not finite.

    Reference:
        Liu et al. 2017, https://arxiv.org/abs/1708.06519; Lee et al. 2021, https://arxiv.org/abs/2010.07611;
        Molchanov et al. 2019, https://arxiv.org/abs/1906.10771; LeCun et al. 1989, Optimal Brain Damage
    """
    layers = dict(model.named_modules())
    if kind in BY_IMAGES:
        scores = _by_images(model, groups, layers, kind, images, seed, progress)
    elif kind == "bn":
        scores = {group.name: _gammas(group, layers) for group in groups}
    elif kind == "lamp":
        scores = {group.name: _lamp(_norms(group, layers, 2)) for group in groups}
    else:
        scores = {group.name: _norms(group, layers, 1 if kind == "l1" else 2) for group in groups}
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise PruneError(f"the importance {kind} of {name} is not finite; its weights have NaN or infinite values")
    return scores


def _gates(group: Group, layers: Mapping[str, nn.Module]) -> list[str]:
    """The layers through whose parameters a unit is seen: setting those of a BatchNorm to 0 is setting it to 0."""
    norms = [member.layer for member in group.outs if isinstance(layers[member.layer], _BatchNorm)]
    return norms or [member.layer for member in group.outs]


def _norms(group: Group, layers: Mapping[str, nn.Module], p: int) -> Tensor:
    found = []
    for member in group.members:
        layer = layers[member.layer]
        if isinstance(layer, _BatchNorm):
            continue
        weight = layer.weight
        assert isinstance(weight, Tensor)
        powers = _by_channel(weight.detach().float().abs() ** p, layer, member.side)
        norm = _by_unit(powers, member) ** (1 / p)
        found.append(norm / norm.mean().clamp_min(EPS))
    return torch.stack(found).mean(0)


def _gammas(group: Group, layers: Mapping[str, nn.Module]) -> Tensor:
    norms = [(layers[member.layer].weight, member) for member in group.outs
             if isinstance(layers[member.layer], _BatchNorm)]  # fmt: skip
    found = [_by_unit(gamma.detach().float().abs(), member) / len(member.channels[0]) for gamma, member in norms
             if isinstance(gamma, Tensor)]  # fmt: skip
    if not found:
        raise PruneError(f"importance bn needs BatchNorm scales, and the channels of {group.name} have none; take l2")
    return torch.stack(found).mean(0)


def _lamp(norm: Tensor) -> Tensor:
    squares, order = norm.square().sort(stable=True)
    rest = squares.cpu().flip(0).cumsum(0).flip(0).to(norm.device)  # as in importance.lamp
    scores = torch.empty_like(norm)
    scores[order] = squares / rest.clamp_min(EPS)
    return scores


def _by_channel(values: Tensor, layer: nn.Module, side: str) -> Tensor:
    """Sum what is shaped like the layer's weight over everything but the channels of a side."""
    return values.transpose(0, weight_axis(layer, side)).flatten(1).sum(1)


def _by_unit(values: Tensor, member: Member) -> Tensor:
    """Sums over the channels of each unit."""
    flat = [channel for channels in member.channels for channel in channels]
    unit = [index for index, channels in enumerate(member.channels) for _ in channels]
    total = values.new_zeros(len(member.channels))
    return total.index_add_(0, torch.tensor(unit, device=values.device), values[flat])


def _by_images(
    model: nn.Module, groups: Sequence[Group], layers: Mapping[str, nn.Module], kind: str, images: Iterable[Tensor],
    seed: int, progress: Callable[[], None],
) -> dict[str, Tensor]:  # fmt: skip
    generator, count = torch.Generator().manual_seed(seed), 0
    names = {name for group in groups for name in _gates(group, layers)}
    held = [(name, p) for name in sorted(names) for p in layers[name].parameters(recurse=False)]
    before = [p.requires_grad for _, p in held]
    scores = {group.name: torch.zeros(group.units, device=next(model.parameters()).device) for group in groups}
    try:
        for _, parameter in held:
            parameter.requires_grad_(True)
        for image in images:
            with torch.enable_grad():
                value = probe(model(image), generator)
                gradients = torch.autograd.grad(value, [p for _, p in held], allow_unused=True)
            moved: dict[str, list[Tensor]] = {}
            for (name, p), gradient in zip(held, gradients):
                if gradient is not None:
                    product = p.detach() * gradient
                    product = product if kind == "taylor" else product.square()
                    moved.setdefault(name, []).append(_by_channel(product, layers[name], "out") if product.dim() > 1
                                                      else product)  # fmt: skip
            for group in groups:
                found = [_by_unit(tensor, member) for member in group.outs for tensor in moved.get(member.layer, ())]
                if found:
                    total = torch.stack(found).sum(0)
                    scores[group.name] += total.square() if kind == "taylor" else total
            count += 1
            progress()
    finally:
        for (_, parameter), needed in zip(held, before):
            parameter.requires_grad_(needed)
    if not count:
        raise PruneError(f"importance {kind} looks at images, and there are none", "images")
    return {name: score / count for name, score in scores.items()}
