"""Targets: the weights a method treats, found by module type and by globs on parameter names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Union

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.errors import PruneError, did_you_mean

Layer = Union[nn.Conv2d, nn.Linear]


@dataclass(frozen=True)
class Target:
    """One weight to prune.

    Attributes:
        name: Parameter name, for example ``model.0.conv.weight``.
        module: The layer that owns it.
    """

    name: str
    module: Layer = field(repr=False)

    @property
    def weight(self) -> Tensor:
        """The layer's weight, [out, in / groups, height, width]; [out, in] of a Linear."""
        return self.module.weight

    @property
    def groups(self) -> int:
        """Groups of a grouped convolution; 1 of any other layer."""
        return getattr(self.module, "groups", 1)


@dataclass(frozen=True)
class Selection:
    """What is pruned and what is not.

    Attributes:
        targets: In the order of the model.
        skipped: Reason by name, for each weight of those layers that was left alone.
        others: How many other parameters there are, by kind of their module.
        linear: Whether the layers are Conv2d and Linear, and not Conv2d alone.
    """

    targets: tuple[Target, ...]
    skipped: dict[str, str]
    others: dict[str, int]
    linear: bool = False


def find_targets(
    model: nn.Module,
    granularity: Granularity,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    linear: bool = False,
) -> Selection:
    """Find the Conv2d weights of a model, or its Conv2d and Linear weights.

    Args:
        model: Any module.
        granularity: Layers that it refuses are skipped, with its reason.
        include: Globs on parameter names; empty means all.
        exclude: Globs on parameter names; they win over ``include``.
        linear: Whether Linear layers are treated too.

    Raises:
        PruneError: If the model has no such layer, a glob matches none (its field is ``include`` or ``exclude``),
            nothing is left, or a weight is not finite.
    """
    kinds = (nn.Conv2d, nn.Linear) if linear else (nn.Conv2d,)
    either = any_of(linear)
    found: dict[str, Target] = {}
    seen: set[int] = set()
    others: Counter[str] = Counter()
    for prefix, module in model.named_modules():
        for short, parameter in module.named_parameters(prefix, recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(module, kinds) and parameter is module.weight:
                found[short] = Target(short, module)
            else:
                others[f"{type(module).__name__} {short.rpartition('.')[2]}"] += parameter.numel()
    if not found:
        raise PruneError(f"the model has no {either} weights to prune")

    for parameter_name, globs in (("include", include), ("exclude", exclude)):
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in found):
                first, last = next(iter(found)), next(reversed(found))
                raise PruneError(
                    f"no {either} weight matches {glob!r}; they run from {first} to {last}{did_you_mean(glob, found)}",
                    parameter_name,
                )

    targets, skipped = [], {}
    for name, target in found.items():
        reason = _reason(name, include, exclude) or granularity.refuses(target.weight, target.groups)
        if reason:
            skipped[name] = reason
            continue
        if not _finite(target.weight):
            raise PruneError(f"{name} has NaN or infinite weights; nothing was pruned")
        targets.append(target)
    if not targets:
        reasons = "; ".join(sorted(set(skipped.values())))
        raise PruneError(f"none of the {len(found)} {either} weights is left to prune ({reasons})")
    return Selection(tuple(targets), skipped, dict(others), linear)


def any_of(linear: bool) -> str:
    """The kinds of layers in words, as in "no Conv2d or Linear weight"."""
    return "Conv2d or Linear" if linear else "Conv2d"


def _finite(weight: Tensor) -> bool:
    """One pass in the usual case: a finite sum has no NaN or infinity in it."""
    return bool(torch.isfinite(weight.detach().sum())) or bool(torch.isfinite(weight).all())


def _reason(name: str, include: Sequence[str], exclude: Sequence[str]) -> str:
    for glob in exclude:
        if fnmatchcase(name, glob):
            return f"excluded by {glob!r}"
    if include and not any(fnmatchcase(name, glob) for glob in include):
        return "not among the included"
    return ""
