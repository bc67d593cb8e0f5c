"""Parameters and FLOPs of a model, and what they would be with some units of its channel groups gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from yolov5_prune_plugin.core.channels.groups import Group
from yolov5_prune_plugin.core.channels.layers import KINDS, channel_counts, depthwise
from yolov5_prune_plugin.core.pruning.multiplications import count_uses


class Cost:
    """Counts a model's parameters and FLOPs without cutting it.

    FLOPs are two for each multiplication with a weight of a Conv2d, ConvTranspose2d or Linear, at the size of the
    example; other operations (activations, pooling, attention's products) are not counted.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], example: Tensor) -> None:
        """Measure the layers in one forward pass.

        Args:
            model: In eval mode.
            groups: The model's channel groups.
            example: [1, 3, H, W], at the size that FLOPs are counted for.
        """
        self._layers = {name: m for name, m in model.named_modules() if isinstance(m, KINDS)}
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        used = {name: layer for name, layer in self._layers.items() if not isinstance(layer, norms)}
        self._positions = count_uses(used, model, example)
        in_layers = {id(p) for layer in self._layers.values() for p in layer.parameters(recurse=False)}
        self._other = sum(p.numel() for p in model.parameters() if id(p) not in in_layers)
        # channels lost a unit, by layer and side: all units of a group are alike but for what tells them apart here
        self._lost: dict[tuple[str, str], list[tuple[str, list[int]]]] = {}
        for group in groups:
            for member in group.members:
                sizes = [len(channels) for channels in member.channels]
                self._lost.setdefault((member.layer, member.side), []).append((group.name, sizes))

    def of(self, removed: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Count ``flops`` and ``params`` with units gone, given by name of their group."""
        flops, params = 0.0, float(self._other)
        for name, layer in self._layers.items():
            out, read = self._gone(name, "out", removed), self._gone(name, "in", removed)
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                params += sum(p.numel() for p in layer.parameters()) * (1 - out / layer.num_features)
                continue
            channels = channel_counts(layer)
            weight = layer.weight.numel() * (1 - out / channels["out"])
            if not depthwise(layer):
                weight *= 1 - read / channels["in"]
            bias = 0 if layer.bias is None else layer.bias.numel() * (1 - out / channels["out"])
            params += weight + bias
            flops += 2 * weight * self._positions.get(name, 0)
        return {"flops": flops, "params": params}

    def _gone(self, layer: str, side: str, removed: Mapping[str, Sequence[int]]) -> int:
        return sum(sizes[unit] for group, sizes in self._lost.get((layer, side), ()) for unit in removed.get(group, ()))
