"""How sparse a model is: numbers first; ``reporting`` makes tables, files and plots of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.parameters import Selection


@dataclass(frozen=True)
class Layer:
    """One Conv2d weight, or one of a Linear where those are pruned too.

    Attributes:
        name: Parameter name.
        shape: [out, in / groups, height, width]; [out, in] of a Linear.
        weights: Number of entries.
        zeros: How many of them are exactly zero.
        channels: Output channels whose entries are all zero.
        skipped: Why it was left alone; empty if it was pruned.
        before: How many of the entries were zero before; 0 where that was not counted.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    channels: int
    skipped: str = ""
    before: int = 0

    @property
    def sparsity(self) -> float:
        """zeros / weights."""
        return self.zeros / self.weights

    @property
    def conv(self) -> bool:
        """Whether it is a Conv2d's."""
        return len(self.shape) == 4


@dataclass(frozen=True)
class Sparsity:
    """A model's zeros, with both denominators.

    Attributes:
        layers: Every weight of a Conv2d (and Linear, where they are pruned too), pruned or not, in the model's order.
        parameters: Entries of all parameters of the model.
        zeros: Exact zeros among all parameters.
        others: All other parameters, by kind of their module.
        linear: Whether weights of Linear layers are among the layers.
    """

    layers: tuple[Layer, ...]
    parameters: int
    zeros: int
    others: dict[str, int]
    linear: bool = False

    @property
    def conv_weights(self) -> int:
        """Entries of all Conv2d weights."""
        return sum(layer.weights for layer in self.layers if layer.conv)

    @property
    def conv_zeros(self) -> int:
        """Exact zeros among them."""
        return sum(layer.zeros for layer in self.layers if layer.conv)

    @property
    def conv_sparsity(self) -> float:
        """Zeros of the Conv2d weights / Conv2d weights; 0 without any."""
        return self.conv_zeros / max(1, self.conv_weights)

    @property
    def conv_before(self) -> int:
        """Zeros that were among them before."""
        return sum(layer.before for layer in self.layers if layer.conv)

    @property
    def total_sparsity(self) -> float:
        """Zeros / parameters, over the whole model."""
        return self.zeros / self.parameters


def zeros_in(tensor: Tensor) -> int:
    """Count the entries that are exactly zero."""
    return tensor.numel() - int(tensor.count_nonzero())


def zeros_by_name(model: nn.Module) -> dict[str, int]:
    """Count the zeros of each parameter."""
    return {name: zeros_in(parameter) for name, parameter in model.named_parameters()}


def measure(model: nn.Module, selection: Selection, before: Mapping[str, int] = MappingProxyType({})) -> Sparsity:
    """Count the zeros of a model as it is now.

    Args:
        model: The model that ``selection`` was found in.
        selection: Says which layers were left alone and why.
        before: What ``zeros_by_name`` counted before the model was pruned.
    """
    reasons = {**dict.fromkeys((target.name for target in selection.targets), ""), **selection.skipped}
    layers = []
    parameters = zeros = 0
    for name, parameter in model.named_parameters():
        empty = zeros_in(parameter)
        parameters += parameter.numel()
        zeros += empty
        if name in reasons:
            dead = int((parameter.flatten(1).count_nonzero(1) == 0).sum())
            layers.append(Layer(name, tuple(parameter.shape), parameter.numel(), empty, dead, reasons[name],
                                before.get(name, 0)))  # fmt: skip
    return Sparsity(tuple(layers), parameters, zeros, selection.others, selection.linear)
