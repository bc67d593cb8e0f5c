"""Slim checkpoints: written so that every release opens them, read again and compared; their widths and facts."""

from __future__ import annotations

import copy
import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.channels.layers import channel_counts
from yolov5_prune_plugin.core.channels.widths import Widths, differing, merged
from yolov5_prune_plugin.core.outputs.objective import tensors
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.yolov5.checkpoints import class_names
from yolov5_prune_plugin.yolov5.checkpoints.model_yaml import WIDTHS
from yolov5_prune_plugin.yolov5.seams.quiet import quiet

KEY = "slim"  # under which our facts are in a checkpoint: plain values, which upstream passes over
TOLERANCE = 0.02  # relative to an output's largest value, for weights in fp16


def save_slim(
    file: Path, checkpoint: dict[str, Any], model: nn.Module, example: Tensor, facts: dict[str, Any],
    layers: Widths,
) -> int:  # fmt: skip
    """Write a slim model as upstream does: pickled whole, fp16, without training state.

    The widths go into ``model.yaml`` too, from which train.py builds its model anew; upstream passes them over there,
    and they stay in every checkpoint that a training writes.

    Args:
        file: The file to write; must not exist.
        checkpoint: The other entries of the checkpoint, from ``Upstream.load``.
        model: In eval mode, float32.
        example: [1, 3, H, W], for comparing outputs.
        facts: Plain values, kept under ``KEY``.
        layers: The model's widths, with which ``widths.narrow`` makes a dense model as narrow.

    Returns:
        Bytes of the file.

    Raises:
        PruneError: If it can't be written, or does not come back as the same model. No file is left then.
    """
    half = copy.deepcopy(model).half()
    note_widths(half, layers)
    for parameter in half.parameters():
        parameter.requires_grad = False
    try:
        with written_whole(file, overwrite=False) as temporary:
            with open(temporary, "wb") as stream:
                class_names.save({**checkpoint, "model": half, "ema": None, KEY: facts}, stream)
            again = torch.load(temporary, map_location="cpu", weights_only=False)["model"].float().eval()
            _compare(model, again, example, file)
        return file.stat().st_size
    except (OSError, RuntimeError) as error:
        what = f"cannot be written: {' '.join(str(error).split())[:200]}; nothing was left there"
        raise PruneError(what, f"file {file}") from error


def bytes_of(checkpoint: dict[str, Any], model: nn.Module) -> int:
    """Count the bytes of a model as a checkpoint in fp16, without training state.

    Args:
        checkpoint: The other entries, from ``Upstream.load``.
        model: Any.
    """
    stream = io.BytesIO()
    class_names.save({**checkpoint, "model": copy.deepcopy(model).half(), "ema": None}, stream)
    return stream.tell()


def note_widths(model: nn.Module, layers: Widths) -> None:
    """Note widths in the yaml that a model carries along; a classifier has none, and needs none.

    Args:
        model: The model; its ``yaml`` is replaced.
        layers: Channels by layer and side; added to what is noted already.
    """
    if layers and isinstance(getattr(model, "yaml", None), dict):
        model.yaml = {**model.yaml, WIDTHS: merged(widths_of(model), layers)}  # type: ignore[assignment, dict-item]


def dense_of(model: nn.Module) -> nn.Module:
    """Build the architecture that a model's yaml describes without the widths noted in it, with fresh weights."""
    content: Any = {key: value for key, value in vars(model)["yaml"].items() if key != WIDTHS}
    return type(model)(content, ch=content.get("ch", 3), nc=content["nc"])


def widths_of_layers(model: nn.Module) -> Widths:
    """Compare the layers of a model with what its yaml describes, whoever narrowed it; empty if they are as wide.

    Args:
        model: One of upstream's with its yaml.

    Raises:
        PruneError: If a layer is wider, or is not there in the architecture. Upstream's classes may raise others.
    """
    with quiet():
        dense = dense_of(model)
    whole = {name: channel_counts(layer) for name, layer in dense.named_modules()}
    found = Widths()
    for name, sides in differing(model, dense).items():
        found[name] = {side: left for side, left in sides.items() if left != whole[name][side]}
        if any(left > whole[name][side] for side, left in found[name].items()):
            raise PruneError(f"{name} is wider than its yaml says")
    return found


def widths_of(model: nn.Module) -> Widths:
    """Read what ``note_widths`` noted; empty if the model is not slim, or a classifier."""
    content = getattr(model, "yaml", None)
    return dict(content.get(WIDTHS) or {}) if isinstance(content, dict) else {}


def facts_of(checkpoint: Any) -> dict[str, Any]:
    """Read our facts from a checkpoint; empty if it is of no slim model."""
    facts = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    return facts if isinstance(facts, dict) else {}


def is_slim(weights: str) -> bool:
    """Whether a local checkpoint has widths in it, without unpickling anything."""
    try:
        with zipfile.ZipFile(weights) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(WIDTHS.encode() in archive.read(name) for name in names)
    except (OSError, zipfile.BadZipFile):
        return False


@torch.no_grad()
def _compare(model: nn.Module, again: nn.Module, example: Tensor, file: Path) -> None:
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in again.state_dict().items()}:
        raise PruneError("does not come back with the same layers, so it is not kept", f"file {file}")
    example = example.cpu()
    for ours, theirs in zip(tensors(copy.deepcopy(model).cpu()(example)), tensors(again(example))):
        largest = float(ours.abs().max())
        if not bool(((ours - theirs).abs() <= TOLERANCE * largest).all()):  # also false for NaN
            raise PruneError("its outputs differ from the model's by more than fp16 explains, so it is not kept",
                             f"file {file}")  # fmt: skip
