"""Upstream's model yaml: a check of one that comes from a file, and one for classifiers, which have none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from yolov5_prune_plugin.errors import PruneError

# What upstream's parse_model may be told to evaluate; all else, which could be any name of its module, is refused.
LAYERS = {"Conv", "GhostConv", "Bottleneck", "GhostBottleneck", "SPP", "SPPF", "DWConv", "MixConv2d", "Focus",
          "CrossConv", "BottleneckCSP", "C3", "C3TR", "C3SPP", "C3Ghost", "C3x", "DWConvTranspose2d", "Concat",
          "Contract", "Expand", "Sum", "Detect", "Segment", "nn.BatchNorm2d", "nn.Conv2d", "nn.ConvTranspose2d",
          "nn.Upsample", "nn.MaxPool2d", "nn.ZeroPad2d", "nn.Identity", "nn.ReflectionPad2d"}  # fmt: skip
NO_LAYERS = {"AutoShape", "BaseModel", "Classify", "ClassificationModel", "DetectionModel", "DetectMultiBackend",
             "Ensemble", "Model", "Proto", "SegmentationModel"}  # classes of models/ that no yaml names  # fmt: skip
WORDS = {"None", "True", "False", "nc", "anchors", "nearest", "bilinear", "bicubic", "linear", "area"}
_ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Za-z]\w{0,30}\((inplace=(True|False)|\d{0,9}(\.\d{1,9})?)\)")
_REPEATS, _LAYERS, _NUMBER = 1000, 2000, 1 << 20
_KEYS = {"backbone", "head", "nc", "depth_multiple", "width_multiple"}


def own_layers(module: Any) -> frozenset[str]:
    """List the layers that a checkout's ``models/`` defines beside upstream's: a user's own, or a fork's.

    Args:
        module: The checkout's ``models.yolo``; names that it does not have can't be built.
    """
    place = str(module.__name__).rpartition("yolo")[0]
    return frozenset(name for name, cls in vars(module).items()
                     if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__.startswith(place)
                     and name not in LAYERS | NO_LAYERS)  # fmt: skip


def check_yaml(yaml: Any, own: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Check that upstream, which evaluates the words of a model yaml, can do nothing with this one but make layers.

    Args:
        yaml: The content of a model yaml.
        own: Layers that the checkout has beside upstream's, as ``own_layers`` lists them.

    Returns:
        The yaml as it is.

    Raises:
        PruneError: If it has another form, or a word that is no layer of upstream's.
    """
    if not isinstance(yaml, dict) or not set(yaml) >= _KEYS:
        raise PruneError(f"its architecture is no model yaml: it needs {', '.join(sorted(_KEYS))}")
    for key in ("depth_multiple", "width_multiple"):
        if not is_number(yaml[key]) or not 0 < yaml[key] <= 100:
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
        if not isinstance(module, str) or module not in LAYERS | own:
            raise PruneError(f"its architecture has the layer {str(module)[:40]!r}, which is none of upstream's,"
                             " and models/ of this YOLOv5 does not define it; --repo names another")  # fmt: skip
        if type(repeats) is not int or not 0 < repeats * max(1, yaml["depth_multiple"]) <= _REPEATS:
            raise PruneError(f"its architecture repeats a layer {str(repeats)[:40]} times; up to {_REPEATS} are taken")
        _check_value(source, "from")
        _check_value(_list(arguments), "args")
    return yaml


def backbone_of(layers: nn.Sequential) -> dict[str, Any]:
    """Write a yaml for a classifier, which has none.

    It has the classifier's layers as upstream's detector would have them, and a place for the head, which upstream's
    ClassificationModel puts there itself.

    Raises:
        PruneError: If it has other layers than Conv and C3.
    """
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


def plain(value: Any) -> Any:
    """Turn a value into one that JSON has; what JSON does not have becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, Tensor):
        return value.tolist()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def is_number(value: Any) -> bool:
    """Whether a value is a number of a size that occurs in a yaml."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _NUMBER


def _list(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise PruneError(f"its architecture has {str(value)[:40]!r} where a list is needed")
    return list(value)


def _check_value(value: Any, what: str, depth: int = 0) -> None:
    if isinstance(value, (list, tuple)) and depth < 3 and len(value) <= _LAYERS:
        for one in value:
            _check_value(one, what, depth + 1)
    elif not (
        value is None or isinstance(value, bool) or is_number(value) or (isinstance(value, str) and value in WORDS)
    ):
        raise PruneError(f"its architecture has {str(value)[:40]!r} among {what}; this reader takes numbers and"
                         f" {', '.join(sorted(WORDS))}")  # fmt: skip
