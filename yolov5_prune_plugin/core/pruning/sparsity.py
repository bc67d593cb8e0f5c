"""How sparse a model is: numbers first; ``reporting`` makes tables, files and plots of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.parameters import Selection

ROWS = (2, 4)  # output channels in the blocks that are counted in any model


@dataclass(frozen=True)
class Blocks:
    """Blocks of one size in one weight.

    Attributes:
        blocks: How many there are.
        empty: How many of them are all zero.
        zeros: Zeros in these.
    """

    blocks: int
    empty: int
    zeros: int


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
        uses: How often each weight is used for one image, a multiplication each time; 0 if that is not known.
        blocks: Blocks of output channels, by their number of channels.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    channels: int
    skipped: str = ""
    before: int = 0
    uses: int = 0
    blocks: Mapping[int, Blocks] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """zeros / weights."""
        return self.zeros / self.weights

    @property
    def multiplications(self) -> int:
        """Of one image."""
        return self.weights * self.uses

    @property
    def zero_multiplications(self) -> int:
        """Those by a zero."""
        return self.zeros * self.uses

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
    def multiplications(self) -> int:
        """Multiplications by the layers' weights for one image; 0 if they were not counted."""
        return sum(layer.multiplications for layer in self.layers)

    @property
    def zero_multiplications(self) -> int:
        """Those by a zero."""
        return sum(layer.zero_multiplications for layer in self.layers)

    @property
    def multiplication_sparsity(self) -> float:
        """Multiplications by zeros / multiplications; 0 if they were not counted."""
        return self.zero_multiplications / max(1, self.multiplications)

    def zeros_in_blocks(self, rows: int) -> float:
        """Give the share of the layers' zeros that stand in blocks of so many output channels; 0 without zeros."""
        inside = sum(layer.blocks[rows].zeros for layer in self.layers if rows in layer.blocks)
        return inside / max(1, sum(layer.zeros for layer in self.layers))

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


def measure(
    model: nn.Module,
    selection: Selection,
    uses: Mapping[str, int] = MappingProxyType({}),
    rows: Iterable[int] = (),
    before: Mapping[str, int] = MappingProxyType({}),
) -> Sparsity:
    """Count the zeros of a model as it is now.

    Args:
        model: The model that ``selection`` was found in.
        selection: Says which layers were left alone and why.
        uses: How often each weight is used for one image, by name, as ``uses_at`` has it.
        rows: Output channels of blocks that are counted, beside ``ROWS``.
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
            groups = getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1)
            blocks = {count: _blocks(parameter.detach(), groups, count) for count in sorted({*ROWS, *rows})}
            layers.append(Layer(name, tuple(parameter.shape), parameter.numel(), empty, dead, reasons[name],
                                before.get(name, 0), uses.get(name, 0), blocks))  # fmt: skip
    return Sparsity(tuple(layers), parameters, zeros, selection.others, selection.linear)


def _blocks(weight: Tensor, groups: int, rows: int) -> Blocks:
    grain = Granularity("block", rows=rows)
    empty = ~grain.kept_units(weight != 0, groups)
    return Blocks(empty.numel(), int(empty.sum()), int(grain.unit_sizes(weight, groups)[empty].sum()))
