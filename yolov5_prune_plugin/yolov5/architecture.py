"""A model's architecture as plain values, and upstream's own classes built from them again; nothing is executed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.errors import PruneError

# What upstream's parse_model may be told to evaluate; all else, which could be any name of its module, is refused.
LAYERS = {"Conv", "GhostConv", "Bottleneck", "GhostBottleneck", "SPP", "SPPF", "DWConv", "MixConv2d", "Focus",
          "CrossConv", "BottleneckCSP", "C3", "C3TR", "C3SPP", "C3Ghost", "C3x", "DWConvTranspose2d", "Concat",
          "Contract", "Expand", "Sum", "Detect", "Segment", "nn.BatchNorm2d", "nn.Conv2d", "nn.ConvTranspose2d",
          "nn.Upsample", "nn.MaxPool2d", "nn.ZeroPad2d", "nn.Identity", "nn.ReflectionPad2d"}  # fmt: skip
WORDS = {"None", "True", "False", "nc", "anchors", "nearest", "bilinear", "bicubic", "linear", "area"}
_ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Za-z]\w{0,30}\((inplace=(True|False)|\d{0,9}(\.\d{1,9})?)\)")
_REPEATS, _LAYERS, _NUMBER = 1000, 2000, 1 << 20
_KEYS = {"backbone", "head", "nc", "depth_multiple", "width_multiple"}
_BN = ("weight", "bias", "running_mean", "running_var")


def check_yaml(yaml: Any) -> dict[str, Any]:
    """Let through a model yaml only if upstream, which evaluates its words, can do nothing with it but make layers.

    Raises:
        PruneError: If it has another form, or a word that is no layer of upstream's.
    """
    if not isinstance(yaml, dict) or not set(yaml) >= _KEYS:
        raise PruneError(f"its architecture is no model yaml: it needs {', '.join(sorted(_KEYS))}")
    for key in ("depth_multiple", "width_multiple"):
        if not _number(yaml[key]) or not 0 < yaml[key] <= 100:
            raise PruneError(f"its architecture has {key} {str(yaml[key])[:40]!r}; it must be a number up to 100")
    activation = yaml.get("activation")
    if activation and not (isinstance(activation, str) and _ACTIVATION.fullmatch(activation)):
        raise PruneError(f"its architecture has the activation {str(activation)[:40]!r}; this reader takes those like"
                         " nn.SiLU()")  # fmt: skip
    _check_value(yaml["nc"], "nc")
    _check_value(yaml.get("ch", 3), "ch")
    _check_value(yaml.get("anchors", []), "anchors")
    layers = [*_list(yaml["backbone"]), *_list(yaml["head"])]
    if not 0 < len(layers) <= _LAYERS:
        raise PruneError(f"its architecture has {len(layers)} layers; 1 to {_LAYERS} are taken")
    for layer in layers:
        if not isinstance(layer, (list, tuple)) or len(layer) != 4:
            raise PruneError(f"its architecture has a layer {str(layer)[:60]} that is not [from, number, module, args]")
        source, repeats, module, arguments = layer
        if not isinstance(module, str) or module not in LAYERS:
            raise PruneError(f"its architecture has the layer {str(module)[:40]!r}, which is none of upstream's")
        if type(repeats) is not int or not 0 < repeats * max(1, yaml["depth_multiple"]) <= _REPEATS:
            raise PruneError(f"its architecture repeats a layer {str(repeats)[:40]} times; up to {_REPEATS} are taken")
        _check_value(source, "from")
        _check_value(_list(arguments), "args")
    return yaml


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
    yaml = _backbone(layers) if task == "classify" else _plain(getattr(model, "yaml", None))
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
    if not isinstance(stride, list) or not all(_number(one) for one in stride) or type(nc) is not int:
        raise PruneError("its stride or number of classes is no number")
    found = {"detect": "Model", "segment": "SegmentationModel", "classify": "ClassificationModel"}.get(str(task))
    if not found or not hasattr(module, found):
        raise PruneError(f"it is a model for {str(task)[:40]!r}, which this YOLOv5 does not have; use a later release")
    # a slim model is built whole first, and may be much larger then
    with _quiet(), _at_most(None if most is None or content.get("widths") else most):
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


def _backbone(layers: nn.Sequential) -> dict[str, Any]:
    """A yaml for a classifier, which has none: its layers as upstream's detector would have them, and a place for the
    head, which upstream's ClassificationModel puts there itself."""
    found: list[list[Any]] = []
    for layer in layers[:-1]:
        kind, source = type(layer).__name__, getattr(layer, "f", -1)
        if kind == "Conv":
            conv = layer.conv
            arguments = [conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0], conv.groups]
            found.append([source, 1, kind, arguments])
        elif kind == "C3":
            out, inner = layer.cv3.conv.out_channels, layer.cv1.conv.out_channels
            shortcut = bool(layer.m[0].add)
            found.append([source, len(layer.m), kind, [out, shortcut, 1, inner / out]])
        else:
            raise PruneError(f"is a classifier with a layer {kind}; those of Conv and C3 can be compressed")
    return {"nc": 1, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 1, "ch": layers[0].conv.in_channels,
            "backbone": [*found, [-1, 1, "Conv", [8, 1]]], "head": []}  # fmt: skip


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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Tensor):
        return value.tolist()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise PruneError(f"its architecture has {str(value)[:40]!r} where a list is needed")
    return list(value)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _NUMBER


def _check_value(value: Any, what: str, depth: int = 0) -> None:
    if isinstance(value, (list, tuple)) and depth < 3 and len(value) <= _LAYERS:
        for one in value:
            _check_value(one, what, depth + 1)
    elif not (
        value is None or isinstance(value, bool) or _number(value) or (isinstance(value, str) and value in WORDS)
    ):
        raise PruneError(f"its architecture has {str(value)[:40]!r} among {what}; this reader takes numbers and"
                         f" {', '.join(sorted(WORDS))}")  # fmt: skip


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


@contextmanager
def _quiet() -> Iterator[None]:
    import contextlib
    import io
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            yield
    finally:
        logging.disable(before)
