"""A model's architecture as plain values, and upstream's own classes built from them again; nothing is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.channels.layers import channel_counts
from yolov5_prune_plugin.core.channels.widths import Widths, differing, narrow
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints.model_yaml import backbone_of, check_yaml, is_number, own_layers, plain
from yolov5_prune_plugin.yolov5.seams.quiet import quiet

SLIMMED = 100  # how many times smaller than its dense architecture a slim model may be: a tenth of all channels


def describe(model: nn.Module, module: Any) -> dict[str, Any]:
    """Describe a model of upstream's by plain values, from which ``build`` makes it again.

    Args:
        model: A detector, segmenter or classifier.
        module: Upstream's ``models.yolo``.

    Returns:
        Task, yaml, classes, stride and the like; under ``widths`` the layers that are narrower than the yaml says:
        [out, in] by name, of a BatchNorm [out].

    Raises:
        PruneError: If it is no detector, segmenter or classifier of upstream's, has layers of its own, or upstream's
            classes do not give the same layers again.
    """
    task = {"SegmentationModel": "segment", "ClassificationModel": "classify"}.get(type(model).__name__, "detect")
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential):
        raise PruneError(f"has a {type(model).__name__}, which is no model of YOLOv5's own; torchvision's classifiers"
                         " cannot be compressed")  # fmt: skip
    yaml = backbone_of(layers) if task == "classify" else plain(getattr(model, "yaml", None))
    names = getattr(model, "names", None) or []
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    head = layers[-1]
    nc = head.linear.out_features if task == "classify" else int(getattr(head, "nc", 0))
    content = {"task": task, "yaml": {**check_yaml(yaml, own_layers(module)), "nc": nc}, "nc": nc,
            "names": [[int(index), str(name)] for index, name in pairs],
            "names_are": "dict" if isinstance(names, Mapping) else "list",
            "stride": torch.as_tensor(getattr(model, "stride", 32.0)).float().reshape(-1).tolist(),
            "fused": not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())}  # fmt: skip
    widths = differing(model, bare(module, content))
    return {**content, "widths": {name: [*sides.values()] for name, sides in widths.items()}}


def build(module: Any, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build a model by upstream's own class and give it its tensors, each in its own type.

    Args:
        module: Upstream's ``models.yolo``.
        content: What ``describe`` returned.
        tensors: The whole state dict.

    Raises:
        PruneError: If the content is none, this release has no such class, or tensors and architecture do not fit.
    """
    model = bare(module, content, sum(tensor.numel() for tensor in tensors.values()))
    widths = _noted_widths(model, content.get("widths", {}))
    try:
        narrow(model, widths)
    except PruneError as error:
        raise PruneError(f"its {error}") from None
    layers = dict(model.named_modules())
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in [*expected, *tensors]:
        if name not in expected or name not in tensors:
            where, other = ("file", "architecture") if name in tensors else ("architecture", "file")
            raise PruneError(f"the {where} has {name}, which its {other} does not have")
        if expected[name] != tensors[name].shape:
            raise PruneError(f"{name} has shape {list(tensors[name].shape)}, its architecture {list(expected[name])}")
    for name, tensor in tensors.items():
        prefix, _, short = name.rpartition(".")
        owner = layers[prefix]
        if short in owner._parameters:
            setattr(owner, short, nn.Parameter(tensor, requires_grad=False))
        else:
            owner._buffers[short] = tensor
    return model.eval()


def bare(module: Any, content: Mapping[str, Any], most: Optional[int] = None) -> nn.Module:
    """Build a model by upstream's own class, in the widths of its yaml and with fresh weights.

    Args:
        module: Upstream's ``models.yolo``.
        content: What ``describe`` returned, with or without ``widths``.
        most: Most parameters that it may have, ``SLIMMED`` times as many where there are ``widths``; None is no limit.

    Raises:
        PruneError: If the content is none, or this release has no such class.
    """
    task, yaml, nc = content.get("task"), check_yaml(content.get("yaml"), own_layers(module)), content.get("nc")
    names, stride = content.get("names"), content.get("stride")
    if not isinstance(names, list) or not all(isinstance(p, list) and len(p) == 2 for p in names):
        raise PruneError("its names are no pairs of index and name")
    if not isinstance(stride, list) or not all(is_number(one) for one in stride) or type(nc) is not int:
        raise PruneError("its stride or number of classes is no number")
    found = {"detect": "Model", "segment": "SegmentationModel", "classify": "ClassificationModel"}.get(str(task))
    if not found or not hasattr(module, found):
        raise PruneError(f"it is a model for {str(task)[:40]!r}, which this YOLOv5 does not have; use a later release")
    # a slim model is built whole first, and may be much larger then
    limit = most if most is None or not content.get("widths") else SLIMMED * most
    with quiet(), torch.no_grad(), _at_most(limit):
        model = getattr(module, found if task != "classify" else "DetectionModel")(yaml)
        if task == "classify":
            model.stride = torch.tensor(stride)
            model = module.ClassificationModel(model=model, nc=nc, cutoff=len(yaml["backbone"]))
        if content.get("fused"):
            model = model.fuse()
    pairs = {int(index): str(name) for index, name in names}
    model.names = pairs if content.get("names_are") == "dict" else list(pairs.values())
    model.nc = nc
    return model


def _noted_widths(model: nn.Module, noted: Any) -> Widths:
    """Widths as a file has them, by layer [out, in], of a BatchNorm [out], as ``narrow`` takes them.

    Raises:
        PruneError: If they are of another form, or name something that the model does not have.
    """
    if not isinstance(noted, dict):
        raise PruneError("its widths are no mapping of layers to channels")
    layers, found = dict(model.named_modules()), Widths()
    for name, channels in noted.items():
        there = channel_counts(layers[name]) if name in layers else {}
        if not isinstance(channels, list) or len(channels) != len(there) or not there:
            raise PruneError(f"its widths name {name[:60]}, which is no such layer")
        if not all(type(new) is int and 0 < new <= old for new, old in zip(channels, there.values())):
            raise PruneError(f"its widths give {name} {channels} channels, its architecture has {[*there.values()]}")
        found[name] = dict(zip(there, channels))
    return found


@contextmanager
def _at_most(most: Optional[int]) -> Iterator[None]:
    """Stop building a model before it becomes larger than its file: a layer's weights are not touched before that."""
    register = getattr(nn.modules.module, "register_module_parameter_registration_hook", None)  # torch 2.0
    if most is None or register is None:
        yield
        return
    left = most

    def count(module: nn.Module, name: str, parameter: Optional[Tensor]) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < -most - 1_000_000:  # layers are made twice where upstream replaces some
            raise PruneError("its architecture has more weights than the file")

    handle = register(count)
    try:
        yield
    except PruneError:
        raise
    except Exception as error:
        raise PruneError(f"its architecture cannot be built: {' '.join(str(error).split())[:160]}") from error
    finally:
        handle.remove()
