"""What zeros save in time: each layer is measured here, on the runtime's kernels, at several amounts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.multiplications import input_channels
from yolov5_prune_plugin.core.runtime.choose import measured
from yolov5_prune_plugin.core.runtime.graph import Convolution, trace
from yolov5_prune_plugin.core.runtime.native import kernels, missing, this_machine
from yolov5_prune_plugin.core.runtime.plan import Planner
from yolov5_prune_plugin.core.runtime.program import Program
from yolov5_prune_plugin.errors import PruneError

AMOUNTS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
REPEATS = 9  # frames of which the fastest counts, step by step


@dataclass(frozen=True)
class Costs:
    """Milliseconds for one image, one thread.

    Attributes:
        layers: By parameter name, and by amount in ``AMOUNTS``; they never rise with it.
        rest: All else of the model.
        kernels: What was measured: ``avx512``, ``avx2``, ``sse`` or ``neon``.
    """

    layers: Mapping[str, tuple[float, ...]]
    rest: float
    kernels: str

    @property
    def dense(self) -> float:
        """The model as it is."""
        return self.rest + sum(times[0] for times in self.layers.values())

    def at(self, name: str, amounts: Sequence[float]) -> tuple[float, ...]:
        """Milliseconds of a layer; between measurements on a line.

        Args:
            name: Of its weight.
            amounts: Shares that are dropped.
        """
        return tuple(map(float, np.interp(amounts, AMOUNTS, self.layers[name])))


def measured_costs(
    model: nn.Module, size: tuple[int, int], names: Sequence[str], grain: Granularity,
    progress: Callable[[], None] = lambda: None,
) -> Costs:  # fmt: skip
    """Measure the layers of a model with random zeros in whole frames, each layer in the kernel that is fastest then.

    Args:
        model: As it is, zeros included; a copy runs on the CPU in float32.
        size: Rows and columns of an image.
        names: Parameters that are weights of convolutions; those that the trace does not find cost nothing.
        grain: What is zero together.
        progress: Called after each of ``AMOUNTS``.

    Raises:
        PruneError: If the runtime can't be had here.
    """
    if missing():
        raise PruneError(missing())
    found = kernels(this_machine())
    own = copy.deepcopy(model).cpu().float().eval()
    with torch.inference_mode(False), torch.no_grad():
        planner = Planner(trace(own, torch.zeros(1, input_channels(own), *size)), found, 1)
    convolutions: dict[str, Convolution] = {}
    for operation in planner.graph.operations:
        if isinstance(operation, Convolution) and operation.own and operation.name in names:
            convolutions.setdefault(operation.name, operation)
    dense = {name: c.weight for name, c in convolutions.items()}
    times: dict[str, list[float]] = {name: [] for name in convolutions}
    total = 0.0
    for amount in AMOUNTS:
        for name, c in convolutions.items():
            c.weight = _thinned(dense[name], c.groups, amount, grain)
        spent, whole = _frame(planner)
        total = total or whole
        for name, c in convolutions.items():
            times[name].append(min([spent[c], *times[name][-1:]]))
        progress()
    first = sum(some[0] for some in times.values())
    return Costs({name: tuple(some) for name, some in times.items()}, max(0.0, total - first), found.target.level)


def _thinned(weight: torch.Tensor, groups: int, amount: float, grain: Granularity) -> torch.Tensor:
    """So many units are zero, drawn by chance; zeros that are there stay."""
    units = grain.units(weight, groups)
    order = torch.rand(units, generator=torch.Generator().manual_seed(0)).argsort().argsort()
    return weight * grain.to_weights(order >= round(amount * units), weight, groups)


def _frame(planner: Planner) -> tuple[dict[Convolution, float], float]:
    """Milliseconds of each convolution, and of all steps."""
    program = Program(planner.plan(measured(planner)), planner.kernels)
    inputs = tuple(torch.zeros(value.shape) for value in planner.graph.inputs)
    seconds = np.min([program.timed(*inputs, threads=1) for _ in range(REPEATS)], axis=0) * 1e3
    spent = {layer.convolution: float(seconds[layer.steps.start : layer.steps.stop].sum())
             for layer in program.plan.layers}  # fmt: skip
    return spent, float(seconds.sum())
