"""Weights that are computed anew in each forward pass, from masks or other parametrizations: made plain weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_INNER = ".parametrizations."


def fold(model: nn.Module) -> list[str]:
    """Make plain parameters of those that torch.nn.utils computes before each forward pass.

    These are masks of ``torch.nn.utils.prune`` that were never removed, weight and spectral norm, and everything that
    was registered with ``torch.nn.utils.parametrize``. The outputs stay what they are; the hooks go.

    Args:
        model: Changed in place.

    Returns:
        Names of the parameters that were made plain; empty for an ordinary model.
    """
    found = []
    for prefix, module in list(model.named_modules()):
        names = []
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                names.append(hook._tensor_name)
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
            elif isinstance(hook, WeightNorm):
                names.append(hook.name)
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                names.append(hook.name)
                remove_spectral_norm(module, hook.name)
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                names.append(name)
                parametrize.remove_parametrizations(module, name)
        for name in names:
            _to_front(module, name)
            found.append(f"{prefix}.{name}".lstrip("."))
    return found


def fold_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make plain weights in a state dict of those that were saved with their masks.

    Args:
        state: Tensors by name; ``X_orig`` beside ``X_mask``, and ``parametrizations.X.original`` beside a ``mask``,
            become X.

    Raises:
        ValueError: If a weight was parametrized by something else, which a state dict does not say.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem, kind = name[:-5], name[-5:]
        if kind in ("_orig", "_mask") and f"{stem}_orig" in state and f"{stem}_mask" in state:
            found[stem] = state[f"{stem}_orig"] * state[f"{stem}_mask"].to(state[f"{stem}_orig"].dtype)
        elif _INNER in name:
            layer, _, rest = name.partition(_INNER)
            inside = f"{layer}{_INNER}{rest.partition('.')[0]}."
            parts = {key[len(inside) :]: value for key, value in state.items() if key.startswith(inside)}
            masks = [value for key, value in parts.items() if key.endswith("mask")]
            if "original" not in parts or len(masks) + 1 != len(parts):
                raise ValueError(f"{layer}: its {rest.partition('.')[0]} is parametrized by more than a mask; save the"
                                 " model after torch.nn.utils.parametrize.remove_parametrizations")  # fmt: skip
            weight = parts["original"]
            for mask in masks:
                weight = weight * mask.to(weight.dtype)
            found[f"{layer}.{rest.partition('.')[0]}"] = weight
        else:
            found[name] = tensor
    return found


def _to_front(module: nn.Module, name: str) -> None:
    """A weight comes before its bias again, as in the layer that was built."""
    parameters = module._parameters
    plain = parameters.pop(name)
    if isinstance(plain, Tensor) and not isinstance(plain, nn.Parameter):
        plain = nn.Parameter(torch.as_tensor(plain))
    others = dict(parameters)
    parameters.clear()
    parameters.update({name: plain, **others})
