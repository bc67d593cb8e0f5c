"""Label-free reconstruction: a pruned model's weights are tuned towards the dense model's outputs; zeros stay zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.objective import Features, distance, features_of
from yolov5_prune_plugin.errors import PruneError

WARM_UP = 20  # steps
KEEP = 0.1  # a filter's scale is at least this share of its layer's


@dataclass(frozen=True)
class Tuning:
    """How to tune.

    Attributes:
        steps: Optimizer steps; 0 leaves the model as it is.
        rate: Peak learning rate, relative to the root mean square of each filter's weights.
        features: Weight of the squared difference of the head's inputs, relative to their variance.
        seed: Of flips.
    """

    steps: int
    rate: float = 2e-3
    features: float = 1.0
    seed: int = 0


def tune(
    model: nn.Module,
    dense: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Iterator[Tensor],
    how: Tuning,
    progress: Callable[[float], None] = lambda loss: None,
    balance: Optional[Tensor] = None,
) -> None:
    """Minimise ``objective.distance`` (and the difference of the head's inputs) by Adam, in place.

    Every parameter is scaled to its filter's size first, so that one rate suits all layers of a model whose BatchNorm
    is folded into the convolutions (weights of one layer then differ a thousandfold). The rate rises over the first
    steps and falls to 0 along half a cosine. Images are flipped at random: any image will do, as the dense model says
    what should come out.

    Args:
        model: The pruned model, in eval mode, float32.
        dense: The dense one, in eval mode.
        masks: By parameter name, True where a weight may change; other weights of Conv2d and Linear are left alone,
            biases and the affine parameters of norms are tuned too.
        batches: [B, 3, H, W] in [0, 1], without end.
        how: Steps, rate and so on.
        progress: Called after each step with its loss.
        balance: What an object of each class counts, as for ``objective.distance``.

    Raises:
        PruneError: If the loss is not finite: the rate is too high, or the model gives NaN.
    """
    if not how.steps:
        return
    tuned = _tuned(model, masks)
    scaled = [(p.detach() / scale).requires_grad_(True) for p, scale, _ in tuned]
    optimizer = torch.optim.Adam(scaled, lr=how.rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(how.seed)
    parameters = [p for p, _, _ in tuned]
    variances: list[Tensor] = []
    for p in parameters:
        p.requires_grad_(True)
    try:
        for step in range(how.steps):
            batch = next(batches).to(parameters[0].device)
            if torch.rand((), generator=generator) < 0.5:
                batch = batch.flip(-1)
            with Features(features_of(dense)) as wanted, torch.no_grad():
                outputs = dense(batch.to(next(dense.parameters()).dtype))
            with Features(features_of(model)) as got, torch.enable_grad():
                loss = distance(outputs, model(batch), balance)
                variances = variances or [f.float().var() + 1e-12 for f in wanted.last]
                for f0, f, variance in zip(wanted.last, got.last, variances):
                    loss = loss + how.features / len(variances) * (f - f0.float()).square().mean() / variance
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            if not math.isfinite(float(loss.detach())):
                raise PruneError(f"tuning: the loss is {float(loss.detach())} at step {step + 1}; a lower rate than"
                                 f" {how.rate:g}, or none (0 steps), would do")  # fmt: skip
            for u, gradient, (_, scale, _) in zip(scaled, gradients, tuned):
                u.grad = torch.zeros_like(u) if gradient is None else gradient * scale
            warm = min(1.0, (step + 1) / WARM_UP)
            optimizer.param_groups[0]["lr"] = how.rate * warm * 0.5 * (1 + math.cos(math.pi * step / how.steps))
            optimizer.step()
            with torch.no_grad():
                for u, (p, scale, mask) in zip(scaled, tuned):
                    if mask is not None:
                        u.mul_(mask)
                    p.copy_(u * scale)
            progress(float(loss.detach()))
    finally:
        for p in parameters:
            p.requires_grad_(False)


def _tuned(model: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor, Tensor | None]]:
    """Parameter, its scale (of its shape or broadcast to it), its mask."""
    found: list[tuple[nn.Parameter, Tensor, Tensor | None]] = []
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(prefix, recurse=False):
            if id(p) in seen or not p.is_floating_point():
                continue
            seen.add(id(p))
            if name in masks:
                found.append((p, _filter_scale(p.detach(), masks[name]), masks[name]))
            elif name.endswith(".bias") or (p.dim() == 1 and name.endswith(".weight")):  # 1-D weight: of a norm
                found.append((p, p.detach().abs().mean().clamp_min(1e-6).expand_as(p), None))
    return found


def _filter_scale(weight: Tensor, mask: Tensor) -> Tensor:
    """Root mean square of what is left of each filter, [out, 1, 1, 1]."""
    kept = mask.flatten(1).sum(1).clamp_min(1)
    rms = (weight.flatten(1).square().sum(1) / kept).sqrt()
    return rms.clamp_min(KEEP * float(rms.mean()) + 1e-12).view(-1, *[1] * (weight.dim() - 1))
