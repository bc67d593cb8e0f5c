"""From a checkpoint to a .y5z file, and from a .y5z file to upstream's model and checkpoint."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.core.coding import container
from yolov5_prune_plugin.core.outputs.objective import tensors as tensors_of
from yolov5_prune_plugin.core.pruning.folding import fold_state
from yolov5_prune_plugin.core.pruning.multiplications import input_channels
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.yolov5.checkpoints import architecture, class_names, header
from yolov5_prune_plugin.yolov5.checkpoints.header import KEPT, WEIGHTS_ONLY
from yolov5_prune_plugin.yolov5.checkpoints.model_yaml import plain

SUFFIX = ".y5z"


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
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise PruneError(f"{name} has a value that is NaN or infinite, and no model that works has")
        if kept.is_floating_point() and not bool(kept.isfinite().all()):
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
    try:
        model = architecture.frame(module_of(package), opened.content, opened.shapes, scale_of_limit())
    except PruneError as error:
        raise PruneError(f"{opened.file}: {error}") from None
    except MemoryError:
        raise PruneError(f"{opened.file}: its architecture needs more memory than there is") from None
    tensors = opened.decode()
    try:
        architecture.fill(model, tensors)
    except PruneError as error:
        raise PruneError(f"{opened.file}: {error}") from None
    _say_names(opened)
    return model


def scale_of_limit() -> float:
    """How often more than by default the environment allows."""
    return container.memory_limit() / container.LIMIT


def as_checkpoint(content: Mapping[str, Any], model: nn.Module, half: bool = False) -> Callable[[Any], None]:
    """Prepare to write a model as an ordinary checkpoint of upstream's.

    Args:
        content: What ``describe`` returned, with the facts that are kept.
        model: The model to write.
        half: Whether to write it in fp16, whatever it is in.

    Returns:
        A function that writes the checkpoint to an open binary file.
    """
    facts = {key: value for key, value in content.get("facts", {}).items() if key in KEPT}
    entries = {**facts, "epoch": -1, "best_fitness": None, "ema": None, "updates": None, "optimizer": None,
               "opt": None, "wandb_id": None}  # fmt: skip
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
    example = torch.rand(1, input_channels(model), 64, 64, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(_outputs(model.eval(), example), _outputs(again.float().eval(), example)):
        if not torch.equal(ours, theirs):
            raise PruneError("the model that comes back gives other outputs: it has something that its yaml does not"
                             " say, such as another activation")  # fmt: skip


def _say_names(opened: container.Container) -> None:
    """Say which class names are not those of the file."""
    _, changed = header.safe_names(opened.content["names"], opened.content["nc"])
    for number, (was, now) in enumerate(changed.items()):
        more = f"; so are {len(changed) - 1} more" if len(changed) > 1 else ""
        if not number:
            print(f"yolov5-prune: WARNING {opened.file}: scripts make folders of class names, so {ascii(was)[:60]} is"
                  f" read as {ascii(now)[:60]}{more}", file=sys.stderr)  # fmt: skip


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    return list(tensors_of(model(example)))
