"""Optimal Brain Surgeon: the weights that are left make up for those that go, exactly for a given mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolov5_prune_plugin.core.outputs.watching import watched
from yolov5_prune_plugin.core.pruning.mask import apply_mask
from yolov5_prune_plugin.core.pruning.parameters import Layer
from yolov5_prune_plugin.core.second_order.admm import Pattern, choose
from yolov5_prune_plugin.core.second_order.hessian import Moments
from yolov5_prune_plugin.core.second_order.sequential_calibration import calibrate_sequentially

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-9}  # of a residual, relative to the first one
WIDE, TOLERANCE_WIDE = 2048, 1e-4  # layers with more columns are solved in float32: the minimum is met to a millionth
ITERATIONS = 400
FEW = 12  # iterations, where an estimate will do
RIDGE = 0.01  # added to the diagonal of what is inverted as preconditioner
EPS = 1e-30
TINY = 1e-38
SMOOTH = 0.1  # share of the mean curvature of outputs that is added to each: 128 images are few
CONSTANT = 1e-12  # variance that is but rounding of float32, relative to the square


def solve(weight: Tensor, mask: Tensor, second: Tensor, damp: float = 0.01, iterations: int = ITERATIONS) -> Tensor:
    """The weights on a mask that give the outputs of a full weight best.

    Minimises, for each row, E[((v - w) x)^2] + lambda |v - w|^2 over v that are zero off the mask, with
    lambda = damp * mean diagonal of E[x x^T]. The minimum satisfies [(v - w) (H + lambda)] = 0 on the mask: one linear
    system a row, solved for all rows at once by conjugate gradients, so that no row needs an inverse of its own; the
    part of the full inverse that is on the mask is the preconditioner, in the weight's own precision.
    Removing a single weight q this way is the formula of Optimal Brain Surgeon, v = w - w_q / [H^-1]_qq H^-1[:, q].

    Args:
        weight: [rows, K].
        mask: [rows, K] bool, True where a weight stays.
        second: E[x x^T], [K, K], float64; may be singular, or have dead inputs (zero rows).
        damp: Share of the mean diagonal that is added to the diagonal, >= 0.
        iterations: At most so many; fewer do for an estimate.

    Returns:
        [rows, K] like ``weight``, exactly zero off the mask.

    Reference:
        Hassibi, Stork 1993; Frantar, Alistarh 2022, https://arxiv.org/abs/2208.11580
    """
    scale = float(second.diagonal().mean())
    wide = len(second) > WIDE and weight.dtype == torch.float32
    dtype, tolerance = (torch.float32, TOLERANCE_WIDE) if wide else (second.dtype, TOLERANCE[weight.dtype])
    kept, full = mask.to(dtype), weight.detach().to(dtype)
    if not scale > 0:  # the layer never fires: nothing to make up for
        return (full * kept).to(weight.dtype)
    hessian = second / scale + damp * torch.eye(len(second), dtype=second.dtype, device=second.device)
    ridge = RIDGE * torch.eye(len(second), dtype=second.dtype, device=second.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian + ridge)).to(weight.dtype)
    hessian = hessian.to(dtype)

    def precondition(residual: Tensor) -> Tensor:
        return kept * (residual.to(inverse.dtype) @ inverse).to(residual.dtype)

    step = torch.zeros_like(full)  # v - mask * w
    residual = kept * ((full * (1 - kept)) @ hessian)
    preconditioned = precondition(residual)
    direction = preconditioned.clone()
    energy = (residual * preconditioned).sum(1, keepdim=True)
    goal = tolerance**2 * energy
    for _ in range(iterations):
        if not bool((energy > goal).any()):
            break
        moved = kept * (direction @ hessian)
        curvature = (direction * moved).sum(1, keepdim=True)
        length = torch.where(curvature > 0, energy / curvature.clamp_min(TINY), 0.0)
        step += length * direction
        residual -= length * moved
        preconditioned = precondition(residual)
        before, energy = energy, (residual * preconditioned).sum(1, keepdim=True)
        direction = preconditioned + torch.where(before > 0, energy / before.clamp_min(TINY), 0.0) * direction
    return ((full + step) * kept).to(weight.dtype)


@torch.no_grad()
def compensate(
    layer: Layer, weight: Tensor, mask: Tensor, moments: Moments, damp: float = 0.01, norm: Optional[_BatchNorm] = None
) -> None:  # fmt: skip
    """Prune a layer to a mask and let what is left, and a bias if there is one, make up for it, in place.

    Args:
        layer: Its weight and bias are written.
        weight: The full weight, shaped like the layer's.
        mask: Bool, shaped like it.
        moments: Of the layer's inputs.
        damp: As for ``solve``.
        norm: From ``norms_behind``: its bias is written, as that of the layer.
    """
    second, mean = moments.second, moments.mean
    if layer.bias is not None or norm is not None:  # the bias takes the mean, the weights what is left around it
        squares, second = second.diagonal(dim1=1, dim2=2).mean(1), moments.covariance
        varies = second.diagonal(dim1=1, dim2=2).mean(1) > CONSTANT * squares
        second = second * varies.view(-1, 1, 1)
    groups = len(second)
    full, kept = weight.detach().flatten(1).chunk(groups), mask.flatten(1).chunk(groups)
    rows = [solve(w, m, s, damp) for w, m, s in zip(full, kept, second)]
    lost = torch.cat([(w - v).double() @ m for w, v, m in zip(full, rows, mean)])
    if layer.bias is not None:
        layer.bias.add_(lost.to(layer.bias.dtype))
    elif norm is not None:
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        norm.bias.add_((scale * lost).to(norm.bias.dtype))
    layer.weight.copy_(torch.cat(rows).view_as(layer.weight))


@torch.no_grad()
def norms_behind(model: nn.Module, layers: Iterable[nn.Module], image: Tensor) -> dict[nn.Module, _BatchNorm]:
    """The BatchNorm of each layer that has no bias of its own: that of the one serves the other.

    Args:
        model: In eval mode.
        layers: Of it; those that have a bias, or are used twice, are left out.
        image: [1, C, H, W].
    """
    layers = [layer for layer in layers if getattr(layer, "bias", None) is None]
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    made: dict[int, tuple[Tensor, nn.Module]] = {}  # outputs are held, so that no two have the same id
    calls: Counter[nn.Module] = Counter()
    found: dict[nn.Module, _BatchNorm] = {}

    def note(_name: str, layer: nn.Module, given: Any, output: Any) -> None:
        calls[layer] += 1
        if not isinstance(layer, _BatchNorm):
            made[id(output)] = output, layer
        elif id(given[0]) in made and layer.affine and layer.running_var is not None and not layer.training:
            found[made[id(given[0])][1]] = layer

    with watched({str(i): layer for i, layer in enumerate((*layers, *norms))}, note):
        model(image)
    return {layer: norm for layer, norm in found.items() if calls[layer] == calls[norm] == 1}


@torch.no_grad()
def sequentially(
    model: nn.Module,
    masks: MutableMapping[str, Tensor],
    batches: Sequence[Tensor],
    damp: float = 0.01,
    positions: int = 512,
    seed: int = 0,
    position_weights: Sequence[Sequence[Mapping[str, Tensor]]] = (),
    curvature: Mapping[str, Tensor] = MappingProxyType({}),
    pattern: Optional[Callable[[str, Tensor, float], Tensor]] = None,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Prune layer after layer in the order of the forward pass; each is calibrated on what the pruned ones before give.

    Args:
        model: Dense, in eval mode; changed in place.
        masks: By name of the weight of a Conv2d or Linear; one that keeps all leaves its layer as it is.
        batches: Calibration images, one batch a shape.
        damp: As for ``solve``.
        positions: Output positions looked at, an image and layer.
        seed: Of their choice.
        position_weights: For each batch, for each of its images, what ``PositionWeights.maps`` has of it; none
            counts all alike.
        curvature: Of each weight, shaped like it; with a pattern only, says which output channels matter.
        pattern: (name, scores shaped like the weight, share) as for ``admm.choose``. If it is given, a layer's mask is
            chosen anew when its turn comes, from what the pruned layers before it give, and written to ``masks``.
        progress: Called once for each mask.

    Raises:
        PruneError: If inputs of a layer are not finite.
    """
    names = {model.get_submodule(name.rpartition(".")[0]): name for name, mask in masks.items() if not mask.all()}
    for _ in range(len(masks) - len(names)):
        progress()
    left = dict(names)
    norms = norms_behind(model, names, batches[0][:1])

    def visit(layer: nn.Module, inputs: list[Tensor]) -> None:
        name = left.pop(layer, None)
        if name is None:  # a layer that is used twice: pruned at its first use
            return
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        moments = _moments_of(layer, name, inputs, batches, positions, seed, position_weights)
        if pattern is not None:
            masks[name] = _chosen(layer, moments, curvature[name], partial(pattern, name), damp, layer in norms)
        compensate(layer, layer.weight.clone(), masks[name], moments, damp, norms.get(layer))
        progress()

    calibrate_sequentially(model, batches, list(names), visit)
    for layer, name in left.items():  # the forward pass does not reach it
        weight = layer.weight
        assert isinstance(weight, Tensor)
        apply_mask(weight, masks[name])
        progress()


@torch.no_grad()
def losses(
    model: nn.Module,
    amounts: Mapping[str, Sequence[float]],
    batches: Sequence[Tensor],
    curvature: Mapping[str, Tensor],
    pattern: Callable[[str, float, Tensor, float], Tensor],
    damp: float = 0.01,
    positions: int = 512,
    seed: int = 0,
    position_weights: Sequence[Sequence[Mapping[str, Tensor]]] = (),
    progress: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """What the outputs lose, to second order, when one layer is pruned and its other weights have made up for it.

    In the unit of the curvature: the sum over output channels of their curvature times the mean squared error that is
    left, halved. Masks and weights are estimates, from fewer iterations than ``sequentially`` takes.

    Args:
        model: Dense, in eval mode; not changed.
        amounts: Shares to try, by name of the weight of a Conv2d or Linear.
        batches: Calibration images, one batch a shape.
        curvature: Of each weight, shaped like it.
        pattern: (name, amount, scores shaped like the weight, share) as for ``admm.choose``.
        damp: As for ``solve``.
        positions: Output positions looked at, an image and layer.
        seed: Of their choice.
        position_weights: As for ``sequentially``.
        progress: Called once for each weight.

    Returns:
        Losses by name, in the order of the amounts; a layer that the forward pass does not reach loses nothing.

    Raises:
        PruneError: If inputs of a layer are not finite.
    """
    names = {model.get_submodule(name.rpartition(".")[0]): name for name in amounts}
    found: dict[str, list[float]] = {}
    norms = norms_behind(model, names, batches[0][:1])

    def visit(layer: nn.Module, inputs: list[Tensor]) -> None:
        name = names[layer]
        if name in found:  # a layer that is used twice
            return
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        moments = _moments_of(layer, name, inputs, batches, positions, seed, position_weights)
        rows, hessian = _rows(layer, moments, curvature[name], layer in norms)
        weight = layer.weight.view(*rows.shape, -1)
        found[name] = []
        for amount in amounts[name]:
            mask = choose(weight, hessian, rows, _flat(partial(pattern, name, amount), layer.weight.shape), damp, FEW)
            total = 0.0
            for w, m, h, r in zip(weight, mask, hessian, rows):
                lost = w.double() - solve(w, m, h, damp, FEW).double()
                total += float(((lost @ h) * lost).sum(1) @ r.double()) / 2
            found[name].append(total)
        progress()

    calibrate_sequentially(model, batches, list(names), visit)
    return {name: found.get(name, [0.0] * len(amounts[name])) for name in amounts}


def _moments_of(
    layer: Layer, name: str, inputs: Sequence[Tensor], batches: Sequence[Tensor], positions: int, seed: int,
    position_weights: Sequence[Sequence[Mapping[str, Tensor]]],
) -> Moments:  # fmt: skip
    moments = Moments(layer, name, positions, seed)
    for index, (batch, images) in enumerate(zip(inputs, batches)):
        maps = [of_image.get(name) for of_image in position_weights[index]] if position_weights else ()
        moments.add(batch, len(images), maps)
    return moments


def _chosen(
    layer: Layer, moments: Moments, curvature: Tensor, pattern: Callable[[Tensor, float], Tensor], damp: float,
    normed: bool,
) -> Tensor:  # fmt: skip
    shape = layer.weight.shape
    rows, hessian = _rows(layer, moments, curvature, normed)
    weight = layer.weight.view(*rows.shape, -1)
    mask = choose(weight, hessian, rows, _flat(pattern, shape), damp)
    return mask.reshape(shape)


def _flat(pattern: Callable[[Tensor, float], Tensor], shape: torch.Size) -> Pattern:
    """A pattern of weights for scores [groups, rows, K]."""
    return lambda scores, share: pattern(scores.view(shape), share).reshape(scores.shape)


def _rows(layer: Layer, moments: Moments, curvature: Tensor, normed: bool) -> tuple[Tensor, Tensor]:
    """What a squared error of each output matters, [groups, rows], and the Hessian of the layer's columns.

    Where a bias, of the layer or of the BatchNorm behind it, takes the mean, that is the covariance.
    """
    second = moments.second
    # the curvature of a weight is that of its output times the square of its input
    rows = curvature.view(len(second), layer.weight.shape[0] // len(second), -1).sum(2)
    rows = rows / (second.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) + EPS)
    return rows + SMOOTH * rows.mean(), moments.covariance if layer.bias is not None or normed else second


@torch.no_grad()
def images_that_fit(model: nn.Module, image: Tensor, memory: int) -> int:
    """Compute how many images ``calibrate_sequentially`` can hold at a time, at least 1.

    Args:
        model: In eval mode.
        image: [1, 3, H, W].
        memory: Bytes for activations; an image is taken to need three times the input and output of its largest layer.
    """
    largest = 1

    def note(_name: str, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal largest
        largest = max(largest, inputs[0].numel() + output.numel())

    layers = {name: one for name, one in model.named_modules() if isinstance(one, (nn.Conv2d, nn.Linear))}
    with watched(layers, note):
        model(image)
    return max(1, memory // (3 * 4 * largest))
