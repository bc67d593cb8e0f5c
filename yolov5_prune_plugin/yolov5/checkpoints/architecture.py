"""A model's architecture as plain values, and upstream's own classes built from them again; nothing is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints.model_yaml import backbone_of, check_yaml, is_number, plain
from yolov5_prune_plugin.yolov5.seams.quiet import quiet

_BN = ("weight", "bias", "running_mean", "running_var")


def describe(model: nn.Module) -> dict[str, Any]:
    """A model of upstream's as plain values, from which ``build`` makes it again.

    Raises:
        PruneError: If it is no detector, segmenter or classifier of upstream's, or has layers of its own.
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
    return {"task": task, "yaml": {**check_yaml(yaml), "nc": nc}, "nc": nc,
            "names": [[int(index), str(name)] for index, name in pairs],
            "names_are": "dict" if isinstance(names, Mapping) else "list",
            "stride": torch.as_tensor(getattr(model, "stride", 32.0)).float().reshape(-1).tolist(),
            "fused": not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())}  # fmt: skip


def widths(model: nn.Module, built: nn.Module) -> dict[str, list[int]]:
    """Channels of the layers that a model has narrower than its yaml says: [out, in], of BatchNorm [features].

    Raises:
        PruneError: If the models have other layers.
    """
    there, found = dict(built.named_modules()), {}
    for name, layer in model.named_modules():
        if _channels(layer) and name not in there:
            raise PruneError(f"has a layer {name} that its own yaml does not have")
        if _channels(layer) != _channels(there.get(name)):
            found[name] = _channels(layer)
    return found


def build(module: Any, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build a model by upstream's own class and give it its tensors, each in its own type.

    Args:
        module: Upstream's ``models.yolo``.
        content: What ``describe`` gave, with ``widths``.
        tensors: Its state, all of it.

    Raises:
        PruneError: If the content is none, this release has no such class, or tensors and architecture do not fit.
    """
    model = bare(module, content, sum(tensor.numel() for tensor in tensors.values()))
    wide = content.get("widths", {})
    if not isinstance(wide, dict):
        raise PruneError("its widths are no mapping of layers to channels")
    layers = dict(model.named_modules())
    for name, channels in wide.items():
        _narrow(layers.get(name), name, channels)
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
    """The same without its tensors, in the widths of its yaml.

    Args:
        module: Upstream's ``models.yolo``.
        content: What ``describe`` gave.
        most: Parameters that it may have before channels are removed; None is no limit.
    """
    task, yaml, nc = content.get("task"), check_yaml(content.get("yaml")), content.get("nc")
    names, stride = content.get("names"), content.get("stride")
    if not isinstance(names, list) or not all(isinstance(p, list) and len(p) == 2 for p in names):
        raise PruneError("its names are no pairs of index and name")
    if not isinstance(stride, list) or not all(is_number(one) for one in stride) or type(nc) is not int:
        raise PruneError("its stride or number of classes is no number")
    found = {"detect": "Model", "segment": "SegmentationModel", "classify": "ClassificationModel"}.get(str(task))
    if not found or not hasattr(module, found):
        raise PruneError(f"it is a model for {str(task)[:40]!r}, which this YOLOv5 does not have; use a later release")
    # a slim model is built whole first, and may be much larger then
    with quiet(), torch.no_grad(), _at_most(None if most is None or content.get("widths") else most):
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


def _channels(layer: Any) -> list[int]:
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return [layer.out_channels, layer.in_channels]
    if isinstance(layer, nn.Linear):
        return [layer.out_features, layer.in_features]
    return [layer.num_features] if isinstance(layer, nn.BatchNorm2d) else []


def _narrow(layer: Any, name: str, channels: Any) -> None:
    """Give a layer other channels; its tensors are put in later, these only have the right shapes."""
    before = _channels(layer)
    if not isinstance(channels, list) or len(channels) != len(before) or not before:
        raise PruneError(f"its widths name {name[:60]}, which is no such layer")
    if not all(type(new) is int and 0 < new <= old for new, old in zip(channels, before)):
        raise PruneError(f"its widths give {name} {channels} channels, its architecture has {before}")
    if isinstance(layer, nn.BatchNorm2d):
        layer.num_features = channels[0]
        for short in _BN:
            _resize(layer, short, channels)
        return
    out, inputs = channels
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = out, inputs
        shape = [out, inputs]
    else:
        if layer.groups > 1:
            if layer.groups not in before or (out % inputs and inputs % out):
                raise PruneError(f"its widths name {name}, a convolution in groups")
            layer.groups = min(channels)  # depthwise
        layer.out_channels, layer.in_channels = out, inputs
        first, second = (inputs, out) if isinstance(layer, nn.ConvTranspose2d) else (out, inputs)
        shape = [first, second // layer.groups, *layer.weight.shape[2:]]
    _resize(layer, "weight", shape)
    _resize(layer, "bias", [out])


def _resize(layer: nn.Module, short: str, shape: list[int]) -> None:
    if getattr(layer, short) is not None:
        new = torch.zeros(shape)
        setattr(layer, short, nn.Parameter(new) if short in layer._parameters else new)


@contextmanager
def _at_most(most: Optional[int]) -> Iterator[None]:
    """Stop a model before it becomes larger than its file: a layer's weights are not touched before this is asked."""
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
