"""A narrowed model in the words of upstream's model yaml, so that stock scripts build and load it without us.

A block whose inner widths the yaml has no words for is spelled out in the layers that it consists of: a C3 as Conv,
Bottleneck and Concat, an SPPF as Conv, MaxPool2d and Concat. The weights are the same under other names.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.objective import tensors
from yolov5_prune_plugin.core.outputs.watching import watched
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.yolov5.checkpoints.slim_file import WIDTHS
from yolov5_prune_plugin.yolov5.seams.quiet import quiet

ROUND = 8  # upstream's parse_model makes widths multiples of it
TOLERANCE = 1e-4  # relative to an output's largest value: the same sums in float32
_WITH_WIDTH = {"Conv", "DWConv", "GhostConv", "GhostBottleneck", "MixConv2d", "Focus", "CrossConv", "BottleneckCSP",
               "C3TR", "C3SPP", "C3Ghost", "C3x", "SPP", "SPPF", "nn.ConvTranspose2d", "DWConvTranspose2d"}  # fmt: skip


def stock_model(model: nn.Module, example: Tensor) -> nn.Module:
    """Build a model anew from a yaml that upstream's own scripts read, with the same weights.

    Args:
        model: One of upstream's, in eval mode, float32; narrower in any way than its yaml says.
        example: [1, 3, H, W], for comparing outputs.

    Returns:
        A model of the same class, whose ``yaml`` describes it without anything of ours.

    Raises:
        PruneError: If upstream's yaml has no words for a layer, which is named.
    """
    content = getattr(model, "yaml", None)
    if not isinstance(content, dict):
        raise PruneError("a classifier has no model yaml and needs none: classify/train.py takes its layers as they are"
                         " in the file")  # fmt: skip
    text = _Text(model, content, example)
    state = {new: tensor for old, tensor in model.state_dict().items() if (new := text.renamed(old))}
    with quiet():
        built: nn.Module = type(model)(copy.deepcopy(text.yaml), ch=content.get("ch", 3), nc=content["nc"])
    there = {name: tensor.shape for name, tensor in built.state_dict().items()}
    for old, tensor in model.state_dict().items():
        new = text.renamed(old)
        if there.get(new) != tensor.shape:
            raise PruneError(f"{old} is {list(tensor.shape)}, for which upstream's yaml has no words (it says"
                             f" {list(there.get(new, ()))})")  # fmt: skip
    built.load_state_dict(state)
    for name in ("names", "hyp", "gr", "class_weights"):
        if hasattr(model, name):
            setattr(built, name, copy.deepcopy(getattr(model, name)))
    built.yaml = text.yaml  # type: ignore[assignment]
    built.float().eval()
    _compare(model, built, example)
    return built


def write_yaml(file: Path, model: nn.Module, weights: Path) -> None:
    """Write the yaml of a model as upstream lays it out, one layer a line.

    Args:
        file: The file to write; must not exist.
        model: From ``stock_model``.
        weights: The checkpoint that it belongs to, for a comment.

    Raises:
        PruneError: If it can't be written.
    """
    content: dict[str, Any] = dict(model.yaml)  # type: ignore[arg-type]
    parts = {part: content.pop(part) for part in ("backbone", "head")}
    lines = [f"# The architecture of {weights.name}: train.py --weights {weights.name} --cfg {file.name}"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in content.items()]
    for part, rows in parts.items():
        lines += [f"{part}:  # [from, number, module, args]", *(f"  - {json.dumps(row)}" for row in rows)]
    try:
        with written_whole(file, overwrite=False) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise PruneError(f"cannot be written: {error.strerror or error}", f"--yaml {file}") from error


class _Text:
    """The rows of a yaml, and where each module of the model stands in them.

    Args:
        model: The model.
        content: Its yaml.
        example: [1, 3, H, W].
    """

    def __init__(self, model: nn.Module, content: dict[str, Any], example: Tensor) -> None:
        self.rows: list[list[Any]] = []
        self.places: dict[str, str] = {}  # prefix of names there -> prefix of names here
        self.outputs: list[int] = []  # the row that gives what a layer of the model gives
        self.depth = content["depth_multiple"]
        layers: nn.Sequential = model.model  # type: ignore[assignment]
        self.widths = _output_widths(layers, model, example)
        written = [*content["backbone"], *content["head"]]
        if len(written) != len(layers):
            raise PruneError(f"its yaml has {len(written)} layers, the model {len(layers)}")
        split = 0
        for index, (layer, row) in enumerate(zip(layers, written)):
            if index == len(content["backbone"]):
                split = len(self.rows)
            self._write(index, layer, row)
        self.yaml = {**{key: value for key, value in content.items() if key != WIDTHS}, "depth_multiple": 1.0,
                     "width_multiple": 1.0, "backbone": self.rows[:split], "head": self.rows[split:]}  # fmt: skip

    def renamed(self, name: str) -> str:
        """What a tensor of the model is called in the model that the yaml makes; empty if it is not there."""
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            prefix = ".".join(parts[:end])
            if prefix in self.places:
                return ".".join([self.places[prefix], *parts[end:]])
        return ""

    def _write(self, index: int, layer: nn.Module, row: list[Any]) -> None:
        source, repeats, kind, arguments = row
        several = source if isinstance(source, list) else [source]
        froms = [self.outputs[one if one >= 0 else index + one] if index else -1 for one in several]
        name = f"model.{index}"
        inner = _INNER.get(kind)
        if isinstance(layer, nn.Sequential):  # repeats
            last = froms[0]
            for number, one in enumerate(layer):
                write = _INNER.get(type(one).__name__)
                if write:
                    last = write(self, one, f"{name}.{number}", last)
                else:
                    width = self._width(f"{name}.{number}", self.widths[f"{name}.{number}"])
                    last = self._row(last, type(one).__name__, [width, *arguments[1:]], f"{name}.{number}")
        elif inner:
            last = inner(self, layer, name, froms[0])
        else:
            new = list(arguments)
            if kind in _WITH_WIDTH:
                new[0] = self._width(name, self.widths[name])
            elif kind == "Segment":
                new[3] = self._width(f"{name}.proto", layer.proto.cv1.conv.out_channels)  # type: ignore[union-attr]
            number = max(round(repeats * self.depth), 1) if repeats > 1 else repeats
            last = self._row(froms if isinstance(source, list) else froms[0], kind, new, name, number)
        self.outputs.append(last)

    def _row(self, source: Any, kind: str, arguments: list[Any], name: str = "", number: int = 1) -> int:
        """Add a row; absolute sources become -1 where they are the row before."""
        place = len(self.rows)
        nearer = [-1 if one == place - 1 else one for one in (source if isinstance(source, list) else [source])]
        self.rows.append([nearer if isinstance(source, list) else nearer[0], number, kind, arguments])
        if name:
            self.places[name] = f"model.{place}"
        return place

    def _width(self, name: str, width: int) -> int:
        if width % ROUND:
            raise PruneError(f"{name} has {width} channels; upstream's yaml makes multiples of {ROUND} of all widths")
        return width

    def _conv(self, conv: Any, name: str, source: int) -> int:
        kernel, stride, padding = (value[0] for value in (conv.conv.kernel_size, conv.conv.stride, conv.conv.padding))
        width = self._width(name, conv.conv.out_channels)
        return self._row(source, "Conv", [width, kernel, stride, padding, conv.conv.groups], name)

    def _bottleneck(self, block: Any, name: str, source: int) -> int:
        width = self._width(name, block.cv2.conv.out_channels)
        share = _share(block.cv1.conv.out_channels, width)
        return self._row(source, "Bottleneck", [width, bool(block.add), block.cv2.conv.groups, share], name)

    def _c3(self, block: Any, name: str, source: int) -> int:
        width, hidden = block.cv3.conv.out_channels, block.cv1.conv.out_channels
        ends = [block.cv2, *(conv for one in block.m for conv in (one.cv1, one.cv2))]
        inner = {end.conv.out_channels for end in ends}
        if inner == {hidden}:
            groups = block.m[0].cv2.conv.groups
            arguments = [self._width(name, width), bool(block.m[0].add), groups, _share(hidden, width)]
            return self._row(source, "C3", arguments, name, len(block.m))
        _needs_source(name, source)
        deep = self._conv(block.cv1, f"{name}.cv1", source)
        for number, one in enumerate(block.m):
            deep = self._bottleneck(one, f"{name}.m.{number}", deep)
        plain = self._conv(block.cv2, f"{name}.cv2", source)
        return self._conv(block.cv3, f"{name}.cv3", self._row([deep, plain], "Concat", [1]))

    def _sppf(self, block: Any, name: str, source: int) -> int:
        width, hidden = block.cv2.conv.out_channels, block.cv1.conv.out_channels
        pools = list(block.m) if isinstance(block.m, nn.ModuleList) else [block.m]
        sizes = [pool.kernel_size for pool in pools]
        if hidden == block.cv1.conv.in_channels // 2:
            kind = "SPP" if isinstance(block.m, nn.ModuleList) else "SPPF"
            return self._row(source, kind, [self._width(name, width), sizes if kind == "SPP" else sizes[0]], name)
        _needs_source(name, source)
        first = last = self._conv(block.cv1, f"{name}.cv1", source)
        pooled = [first]
        for size in sizes if len(sizes) > 1 else sizes * 3:
            last = self._row(first if len(sizes) > 1 else last, "nn.MaxPool2d", [size, 1, size // 2])
            pooled.append(last)
        return self._conv(block.cv2, f"{name}.cv2", self._row(pooled, "Concat", [1]))


_INNER: dict[str, Callable[[_Text, Any, str, int], int]] = {
    "Bottleneck": _Text._bottleneck, "C3": _Text._c3, "SPPF": _Text._sppf, "SPP": _Text._sppf,
}  # fmt: skip


def _share(part: int, whole: int) -> float:
    """The e of which upstream's int(whole * e) makes the part."""
    share = round(part / whole, 6)
    return share if int(whole * share) == part else (part + 0.5) / whole


def _needs_source(name: str, source: int) -> None:
    if source < 0:
        raise PruneError(f"{name} would have to be spelled out, and no row can name the image")


@torch.no_grad()
def _output_widths(layers: nn.Sequential, model: nn.Module, example: Tensor) -> dict[str, int]:
    """Channels that each layer gives, and each of the repeats in a Sequential, by name."""
    found: dict[str, int] = {}

    def note(name: str, _layer: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found[name] = output.shape[1]

    named = {f"model.{index}": layer for index, layer in enumerate(layers)}
    for name, layer in list(named.items()):
        if isinstance(layer, nn.Sequential):
            named.update({f"{name}.{number}": one for number, one in enumerate(layer)})
    with watched(named, note):
        model(example)
    return found


@torch.no_grad()
def _compare(model: nn.Module, built: nn.Module, example: Tensor) -> None:
    for ours, theirs in zip(tensors(model(example)), tensors(built(example))):
        largest = float(ours.abs().max())
        if ours.shape != theirs.shape or not bool(((ours - theirs).abs() <= TOLERANCE * largest).all()):
            raise PruneError("what the yaml builds gives other outputs with the same weights, so it is not written")
