"""A pruned model as an upstream checkpoint: written so that stock YOLOv5 opens it, read again and compared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.plugin_api.run import Saved


def save_pruned(
    source: Path,
    model: nn.Module,
    names: list[str],
    file: Path,
    reload: Callable[[str], nn.Module],
    facts: dict[str, Any],
) -> Saved:
    """Write a changed model as an upstream checkpoint: fp16, stripped, with exact zeros; reload it and compare.

    A script runs the model with BatchNorm folded into the convolutions ("fused"). Folding scales whole output channels,
    so a zero stays at its place: first the unfused weights of the source are written, with the zeros of the changed;
    train.py can go on from them, and loading fuses them to the very weights in memory. Where a method moved weights
    too, they are divided by what folding multiplies them with. Where neither gives them back (a fork that fuses
    otherwise), the model itself is written as it runs.

    Args:
        source: The checkpoint that ``model`` was loaded from.
        model: The changed model, as the script runs it.
        names: Parameters that were changed.
        file: The file to write; must not exist.
        reload: Loads a checkpoint the way the script does.
        facts: Plain values, kept in the checkpoint under ``prune``.

    Returns:
        The file, which form was written, the largest difference of a weight, and bytes.

    Raises:
        PruneError: If it can't be written, or neither form reloads to the same model. No file is left then.
    """
    differences: dict[str, str] = {}
    running = "unfused" if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) else "fused"
    for kind, make in (("unfused", _masked_source), ("unfused", _unfolded), (running, _as_run)):
        try:
            with written_whole(file, overwrite=False) as temporary:
                checkpoint = make(source, model, names)
                if checkpoint is None:
                    raise _DiffersError("the layers of the checkpoint have other names or shapes")
                checkpoint["prune"] = {**facts, "weights": kind}
                with open(temporary, "wb") as stream:  # a name would go into the file, and this one differs each time
                    torch.save(checkpoint, stream)
                largest = _compare(model, _again(reload, temporary), names)
            return Saved(file, kind, largest, file.stat().st_size)
        except _DiffersError as error:
            differences[kind] = f"{kind}: {error}"
        except _UnreadableError as error:
            raise PruneError(f"--prune-save {file}: what was written cannot be loaded again, so it is not kept:"
                             f" {error}") from error.__cause__  # fmt: skip
        except (OSError, RuntimeError) as error:
            raise PruneError(
                f"--prune-save {file}: cannot be written: {' '.join(str(error).split())[:200]};"
                f" nothing was left there. Try a folder with {source.stat().st_size / 1e6:.0f} MB to spare"
            ) from error
    raise PruneError(
        f"--prune-save {file}: does not reload to the same model, so it is not kept ({'; '.join(differences.values())})"
    )


class _DiffersError(Exception):
    """A checkpoint does not reload to the model it was written from."""


class _UnreadableError(Exception):
    """The script's own loader does not take what was written."""


def _again(reload: Callable[[str], nn.Module], file: Path) -> nn.Module:
    try:
        return reload(str(file))
    except Exception as error:
        raise _UnreadableError(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _stripped(source: Path) -> tuple[dict[str, Any], nn.Module]:
    """The source's content without training state, as upstream's strip_optimizer leaves it, and its model."""
    checkpoint = torch.load(source, map_location="cpu", weights_only=False)  # the file that upstream just unpickled
    model = checkpoint.get("ema") or checkpoint["model"]
    for key in ("optimizer", "best_fitness", "ema", "updates"):
        if key in checkpoint:
            checkpoint[key] = None
    checkpoint["epoch"] = -1
    return checkpoint, model


def _masked_source(source: Path, model: nn.Module, names: list[str]) -> Any:
    checkpoint, raw = _stripped(source)
    changed, weights = dict(model.named_parameters()), dict(raw.named_parameters())
    if any(name not in weights or weights[name].shape != changed[name].shape for name in names):
        return None
    with torch.no_grad():
        for name in names:
            weights[name].mul_((changed[name] != 0).to(weights[name].device))
    return {**checkpoint, "model": _half(raw)}


def _unfolded(source: Path, model: nn.Module, names: list[str]) -> Any:
    """The source with weights and BatchNorms whose folding gives the model's; None if they don't correspond."""
    checkpoint, raw = _stripped(source)
    raw = raw.float()
    left = {name: parameter.detach().float().cpu() for name, parameter in model.named_parameters()}
    layers = dict(raw.named_modules())
    with torch.no_grad():
        for name, layer in layers.items():
            norm = layers.get(f"{name.rpartition('.')[0]}.bn".lstrip("."))  # upstream's Conv has the two side by side
            folded = isinstance(layer, nn.Conv2d) and layer.bias is None and f"{name}.bias" in left
            if not folded or left[f"{name}.weight"].shape != layer.weight.shape or not isinstance(norm, nn.BatchNorm2d):
                continue
            if not _unfold(layer, norm, left.pop(f"{name}.weight"), left.pop(f"{name}.bias")):
                return None
        for name, parameter in raw.named_parameters():
            if name in left and left[name].shape == parameter.shape:
                parameter.copy_(left.pop(name))
    return None if left else {**checkpoint, "model": _half(raw)}


def _unfold(layer: nn.Conv2d, norm: nn.BatchNorm2d, weight: torch.Tensor, bias: torch.Tensor) -> bool:
    """Undo upstream's fuse_conv_and_bn for a changed weight and bias; False if fp16 can't hold the result."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    by_filter = scale.view(-1, 1, 1, 1)
    # a filter that is scaled to nothing has no other weights than its own, but can have more zeros
    unfolded = torch.where(by_filter == 0, layer.weight * (weight != 0), weight / by_filter)
    beta = bias + norm.running_mean * scale
    layer.weight.copy_(unfolded)
    norm.bias.copy_(beta)
    return all(bool(torch.isfinite(tensor.half()).all()) for tensor in (layer.weight, norm.bias))


def _as_run(source: Path, model: nn.Module, names: list[str]) -> Any:
    checkpoint, _ = _stripped(source)
    return {**checkpoint, "model": _half(copy.deepcopy(model).cpu())}


def _half(model: nn.Module) -> nn.Module:
    model.half()
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model


def _compare(model: nn.Module, reloaded: nn.Module, names: list[str]) -> float:
    """The largest difference of any weight.

    Raises:
        _DiffersError: If names or shapes differ, a zero of a changed weight is lost, or a difference is more than fp16
            rounding explains: of each changed weight by itself, as what a method moved it by may be small beside the
            largest.
    """
    ours, theirs = model.state_dict(), reloaded.state_dict()
    if ours.keys() != theirs.keys():
        raise _DiffersError(f"{len(ours.keys() ^ theirs.keys())} tensors have no counterpart")
    for name, tensor in ours.items():
        if theirs[name].shape != tensor.shape:
            raise _DiffersError(f"{name} has another shape")
    lost = [name for name in names if bool((theirs[name][ours[name] == 0] != 0).any())]
    if lost:
        raise _DiffersError(f"zeros of {lost[0]} are lost")
    largest, changed = 0.0, set(names)
    for name, tensor in ours.items():
        if not tensor.numel():
            continue
        size = tensor.float().abs()
        top, difference = size.max().clamp_min(2**-9), (tensor.float() - theirs[name].float()).abs()
        allowed = 2**-9 * size + 2**-14 * top if name in changed else 2**-9 * top
        if not bool((difference <= allowed).all()):  # also false for NaN
            raise _DiffersError(f"{name} differs by {difference.max().item():.3g}")
        largest = max(largest, difference.max().item())
    return largest
