"""Upstream's model yaml: a check of one that comes from a file, and one for classifiers, which have none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from yolov5_prune_plugin.core.coding import schema
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
_REPEATS, _LAYERS, _NUMBER, _ITEMS, _CLASSES = 1000, 1000, 1 << 20, 64, 100_000
HEADS = {"detect": "Detect", "segment": "Segment"}
WIDTHS = "yolov5_prune_widths"  # under which the widths of a slim model are in its yaml
_SIDE = schema.whole(1, 1 << 16)
_WIDTHS = schema.mapped(schema.record({"out": _SIDE, "in": _SIDE}))
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


def layers_of(yaml: Mapping[str, Any]) -> list[Any]:
    """List the layers of a model yaml, backbone and head."""
    return [*yaml["backbone"], *yaml["head"]]


def check_yaml(yaml: Any, own: frozenset[str] = frozenset(), task: str = "") -> dict[str, Any]:
    """Check that upstream, which evaluates the words of a model yaml, can do nothing with this one but make layers.

    Args:
        yaml: The content of a model yaml.
        own: Layers that the checkout has beside upstream's, as ``own_layers`` lists them.
        task: ``detect``, ``segment`` or ``classify``, whose head it must have; empty for any.

    Returns:
        The yaml as it is.

    Raises:
        PruneError: If it has another form, or a word that is no layer of upstream's; it names the field.
    """
    if not isinstance(yaml, dict) or not set(yaml) >= _KEYS:
        raise PruneError(f"its architecture is no model yaml: it needs {', '.join(sorted(_KEYS))}")
    for key in ("depth_multiple", "width_multiple"):
        if not is_number(yaml[key]) or not 0 < yaml[key] <= 100:
            raise _wrong(key, yaml[key], "a number above 0, up to 100")
    activation = yaml.get("activation")
    if activation and not (isinstance(activation, str) and _ACTIVATION.fullmatch(activation)):
        raise _wrong("activation", activation, "one call like nn.SiLU()")
    _check_whole("nc", yaml["nc"], 1, _CLASSES)
    _check_whole("ch", yaml.get("ch", 3), 1, 64)
    _check_anchors(yaml.get("anchors", 3))
    for key, value in yaml.items():
        if key == WIDTHS:
            _WIDTHS(value, f"content.yaml.{key}")
        elif key not in (*_KEYS, "anchors", "ch", "activation"):
            schema.anything(value, f"content.yaml.{key}")
    layers, repeats = [*_list("backbone", yaml["backbone"]), *_list("head", yaml["head"])], 0.0
    if not 0 < len(layers) <= _LAYERS:
        raise PruneError(f"its architecture has {len(layers)} layers; 1 to {_LAYERS} are taken")
    for index, layer in enumerate(layers):
        part, at = ("backbone", index) if index < len(yaml["backbone"]) else ("head", index - len(yaml["backbone"]))
        field = f"{part}[{at}]"
        if not isinstance(layer, (list, tuple)) or len(layer) != 4:
            raise _wrong(field, layer, "a list of from, number, module and args")
        source, number, module, arguments = layer
        if not isinstance(module, str) or module not in LAYERS | own:
            raise PruneError(f"its architecture has the layer {ascii(module)[:40]} at {field}, which is none of"
                             " upstream's, and models/ of this YOLOv5 does not define it; --repo names another"
                             )  # fmt: skip
        _check_whole(f"{field}, number", number, 1, _REPEATS)
        repeats += max(1.0, number * yaml["depth_multiple"])
        for one in source if isinstance(source, (list, tuple)) and source else [source]:
            _check_whole(f"{field}, from", one, min(-index, -1), max(index - 1, -1))
        _check_value(_list(f"{field}, args", arguments), f"{field}, args")
        if module in HEADS.values() and len(arguments) > 1 and arguments[1] != "anchors":
            _check_anchors(arguments[1], f"{field}, args[1]")  # of a number upstream makes a list
        if module in HEADS.values() and (module != HEADS.get(task, module) or index != len(layers) - 1):
            raise PruneError(f"its architecture has {module} at {field}; it must be the last layer of a model that"
                             f" {'detects' if module == 'Detect' else 'segments'}")  # fmt: skip
    if repeats > _REPEATS:
        raise PruneError(f"its architecture has {repeats:,.0f} layers with their repeats; up to {_REPEATS} are taken")
    if task in HEADS and layers[-1][2] not in {HEADS[task]} | own:
        raise PruneError(f"its architecture ends in {layers[-1][2]}; a model for {task} ends in {HEADS[task]}")
    if task == "classify" and (len(yaml["backbone"]) < 2 or yaml["head"]):
        raise PruneError("its architecture is none of a classifier: it needs a backbone of two layers, and no head")
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
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _NUMBER  # false for NaN


def _wrong(field: str, value: Any, wanted: str) -> PruneError:
    shown = ascii(value)
    return PruneError(f"its architecture has {shown if len(shown) <= 60 else shown[:57] + '...'} as {field}; it must be"
                      f" {wanted}")  # fmt: skip


def _check_whole(field: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise _wrong(field, value, f"a whole number from {least} to {most}")


def _check_anchors(anchors: Any, field: str = "anchors") -> None:
    if not isinstance(anchors, (list, tuple)):
        _check_whole(field, anchors, 1, 16)
        return
    if not 1 <= len(anchors) <= 10 or len({len(one) if isinstance(one, (list, tuple)) else 0 for one in anchors}) > 1:
        raise _wrong(field, anchors, "a number, or 1 to 10 lists of one length")
    for index, one in enumerate(anchors):
        if not isinstance(one, (list, tuple)) or not 2 <= len(one) <= 32 or len(one) % 2:
            raise _wrong(f"{field}[{index}]", one, "a list of widths and heights")
        if not all(is_number(side) and side > 0 for side in one):
            raise _wrong(f"{field}[{index}]", one, f"numbers above 0, up to {_NUMBER}")


def _list(field: str, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(field, value, "a list")
    return list(value)


def _check_value(value: Any, what: str, depth: int = 0) -> None:
    if isinstance(value, (list, tuple)) and depth < 3 and len(value) <= _ITEMS:
        for one in value:
            _check_value(one, what, depth + 1)
    elif not (
        value is None or isinstance(value, bool) or is_number(value) or (isinstance(value, str) and value in WORDS)
    ):
        raise _wrong(what, value, f"numbers up to {_NUMBER}, lists of at most {_ITEMS}, and {', '.join(sorted(WORDS))}")
