"""From a checkpoint to a .y5z file, and from a .y5z file to upstream's model and checkpoint."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.core.coding import container
from yolov5_prune_plugin.core.outputs.objective import tensors as tensors_of
from yolov5_prune_plugin.core.pruning.folding import fold_state
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.yolov5.checkpoints import architecture, class_names
from yolov5_prune_plugin.yolov5.checkpoints.model_yaml import plain

SUFFIX = ".y5z"
WEIGHTS_ONLY = "weights"  # content.kind of a file without an architecture
KEPT = ("date", "prune", "slim", "git")  # entries of a checkpoint that are kept beside the model: plain values


def module_of(package: str) -> Any:
    """Import upstream's ``models.yolo``; a YOLOv5 must have been found or be running."""
    return importlib.import_module(f"{package}models.yolo")


def describe(model: nn.Module, checkpoint: Mapping[str, Any], package: str) -> dict[str, Any]:
    """Describe a model for the header of its file.

    Args:
        model: In eval mode.
        checkpoint: The checkpoint that the model is in; its entries in ``KEPT`` are kept.
        package: What upstream's dotted names start with: empty, or ``yolov5.``.

    Raises:
        PruneError: If upstream's classes do not give the same layers again.
    """
    content = architecture.describe(model, module_of(package))
    facts = {key: plain(checkpoint[key]) for key in KEPT if checkpoint.get(key) is not None}
    return {"writer": f"yolov5-prune-plugin {__version__}", **content, "facts": facts}


def weights_of(model: nn.Module) -> list[str]:
    """List the weights, [out, ...], of convolutions, Linear layers and attentions, which are packed one by one."""
    kinds, found = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear), []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            found.append(f"{name}.weight")
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            found.append(f"{name}.in_proj_weight")
    return found


def stored_state(model: nn.Module, fp32: bool = False) -> dict[str, Tensor]:
    """Give the state of a model as it goes into a file: in fp16, like upstream's own checkpoints.

    Args:
        model: In float32.
        fp32: Keep floats as they are.

    Raises:
        PruneError: If fp16 can't hold a value; its field is ``fp32``.
    """
    found = {}
    for name, tensor in fold_state(model.state_dict()).items():
        kept = tensor.half() if tensor.is_floating_point() and not fp32 else tensor
        if kept.is_floating_point() and bool(tensor.isfinite().all()) and not bool(kept.isfinite().all()):
            largest = float(tensor.abs().max())
            raise PruneError(f"{name} has values up to {largest:g}, more than fp16 holds (65504)", "fp32")
        found[name] = kept
    return found


def check_architecture(opened: container.Container) -> None:
    """Refuse a file that holds the weights of some module, and not a model of YOLOv5.

    Raises:
        PruneError: If it is one.
    """
    if opened.content.get("kind") == WEIGHTS_ONLY:
        raise PruneError(f"{opened.file}: holds weights without an architecture; api.load(file, into=module) puts them"
                         " into a module")  # fmt: skip


def open_model(file: Path, package: str) -> tuple[container.Container, nn.Module]:
    """Read a file and build its model.

    Args:
        file: The .y5z file.
        package: What upstream's dotted names start with: empty, or ``yolov5.``.

    Returns:
        The opened file, and the model in eval mode, in the types of the file.

    Raises:
        PruneError: If the file is damaged, or does not fit its own architecture or this YOLOv5.
    """
    opened = container.read(file)
    return opened, model_in(opened, package)


def model_in(opened: container.Container, package: str) -> nn.Module:
    """Build the model in a file that was opened.

    Args:
        opened: The .y5z file.
        package: As ``open_model`` has it.

    Returns:
        The model in eval mode, in the types of the file.

    Raises:
        PruneError: As ``open_model``.
    """
    check_architecture(opened)
    tensors = opened.decode()
    try:
        model = architecture.build(module_of(package), opened.content, tensors)
        if opened.content.get("widths"):
            _try_out(model)
    except PruneError as error:
        raise PruneError(f"{opened.file}: {error}") from None
    return model


def as_checkpoint(content: Mapping[str, Any], model: nn.Module, half: bool = False) -> Callable[[Any], None]:
    """Prepare to write a model as an ordinary checkpoint of upstream's.

    Args:
        content: What ``describe`` returned, with the facts that are kept.
        model: The model to write.
        half: Whether to write it in fp16, whatever it is in.

    Returns:
        A function that writes the checkpoint to an open binary file.
    """
    facts = content.get("facts")
    entries = {"epoch": -1, "best_fitness": None, "ema": None, "updates": None, "optimizer": None, "opt": None,
               "wandb_id": None, **(facts if isinstance(facts, dict) else {})}  # fmt: skip
    written = copy.deepcopy(model).half() if half else model
    return lambda stream: class_names.save({**entries, "model": written}, stream)


def save_checkpoint(file: Path, content: Mapping[str, Any], model: nn.Module) -> int:
    """Write a model as an ordinary checkpoint of upstream's.

    Args:
        file: The file to write; must not exist.
        content: What ``describe`` returned, with the facts that are kept.
        model: The model to write.

    Returns:
        Bytes of the file.

    Raises:
        OSError: If it can't be written; nothing is left then.
    """
    with written_whole(file, overwrite=False) as place, open(place, "wb") as stream:
        as_checkpoint(content, model)(stream)
    return file.stat().st_size


@torch.no_grad()
def check_alike(model: nn.Module, again: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Compare a model that was read with the one that was written: every tensor, and the outputs for an image.

    Args:
        model: The model that was written; it is given the tensors of ``state``.
        again: The model that was read.
        state: The tensors that should be in it, by name.

    Raises:
        PruneError: If they differ.
    """
    read = again.state_dict()
    for name, tensor in state.items():
        if read[name].dtype != tensor.dtype or not torch.equal(read[name], tensor):
            raise PruneError(f"{name} does not come back as it was written")
    model.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                           for name, tensor in state.items()})  # fmt: skip
    example = torch.rand(1, _inputs(model), 64, 64, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(_outputs(model.eval(), example), _outputs(again.float().eval(), example)):
        if not torch.equal(ours, theirs):
            raise PruneError("the model that comes back gives other outputs: it has something that its yaml does not"
                             " say, such as another activation")  # fmt: skip


def _try_out(model: nn.Module) -> None:
    """Run the model once: widths that contradict each other fail then."""
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    try:
        with torch.no_grad():
            _outputs(model.float(), torch.zeros(1, _inputs(model), 64, 64))
    except RuntimeError as error:
        raise PruneError(f"its widths do not fit each other: {' '.join(str(error).split())[:160]}") from None
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(types[name])


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    return list(tensors_of(model(example)))


def _inputs(model: nn.Module) -> int:
    return next(layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d))
