"""What zeros save in time: each layer is measured here, on the runtime's kernels, at several amounts."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.runtime.choose import LONG, candidates, measured
from yolov5_prune_plugin.core.runtime.graph import Convolution, Value, trace
from yolov5_prune_plugin.core.runtime.native import kernels, missing, this_machine
from yolov5_prune_plugin.core.runtime.plan import Blob, Choice, Plan, Planner
from yolov5_prune_plugin.core.runtime.program import Program
from yolov5_prune_plugin.errors import PruneError

AMOUNTS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
REPEATS = 5  # of which the fastest counts
WAYS = 2  # of computing a layer that are tried at each amount


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
    """Measure the layers of a model with random zeros, one after the other, each in the kernel that is fastest then.

    Args:
        model: As it is, zeros included; a copy runs on the CPU in float32.
        size: Rows and columns of an image.
        names: Parameters that are weights of convolutions; those that the trace does not find cost nothing.
        grain: What is zero together.
        progress: Called after each layer.

    Raises:
        PruneError: If the runtime can't be had here.
    """
    if missing():
        raise PruneError(missing())
    found = kernels(this_machine())
    own = copy.deepcopy(model).cpu().float().eval()
    channels = next((layer.in_channels for layer in own.modules() if isinstance(layer, nn.Conv2d)), 3)
    with torch.inference_mode(False), torch.no_grad():
        planner = Planner(trace(own, torch.zeros(1, channels, *size)), found, 1)
    bench = _Bench(planner)
    chosen = measured(planner)
    whole = bench.whole(chosen)
    layers: dict[str, tuple[float, ...]] = {}
    for c, choice in chosen.items():
        if c.own and c.name in names and c.name not in layers:
            layers[c.name] = _falling(
                [bench.layer(c, choice), *(bench.sparse(c, amount, grain) for amount in AMOUNTS[1:])]
            )
        progress()
    return Costs(layers, max(0.0, whole - sum(times[0] for times in layers.values())), found.target.level)


def _falling(times: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.minimum.accumulate(times).tolist())


class _Bench:
    """Runs single layers of a planned model on numbers that mean nothing."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.workspace = planner.workspace()
        self.inputs = tuple(torch.zeros(value.shape) for value in planner.graph.inputs)

    def whole(self, chosen: Mapping[Convolution, Choice]) -> float:
        """Milliseconds of the model."""
        program = Program(self.planner.plan(dict(chosen), self.workspace), self.planner.kernels)
        return min(_ms(lambda: program(*self.inputs, threads=1)) for _ in range(3 * REPEATS))

    def layer(self, c: Convolution, choice: Choice) -> float:
        """Milliseconds of one."""
        planner, blob = self.planner, Blob()
        steps = np.array(planner.convolution(c, choice, blob), np.int64)
        plan = Plan(planner.graph, steps, blob.buffer(), self.workspace, [], planner.places, planner.fresh,
                    planner.decoded, planner.bases, planner.threads)  # fmt: skip
        program, made = Program(plan, planner.kernels), dict[Value, torch.Tensor]()
        bases = program.bases(self.inputs, made)
        return min(_ms(lambda: program.run_steps(0, len(steps), bases, 1)) for _ in range(REPEATS + 1))

    def sparse(self, c: Convolution, amount: float, grain: Granularity) -> float:
        """Milliseconds of one with so many of its units zero, by its fastest way; zeros that it has stay."""
        generator = torch.Generator().manual_seed(0)
        units = grain.units(c.weight, c.groups)
        kept = torch.rand(units, generator=generator).argsort() >= round(amount * units)
        weight = c.weight * grain.to_weights(kept, c.weight, c.groups)
        thin = dataclasses.replace(c, weight=weight)
        ways = candidates(weight.numpy(), c.groups, self.planner.kernels)
        times = []
        for way in ways[:WAYS]:
            times.append(self.layer(thin, way))
            if times[0] > LONG * 1e3:
                break
        return min(times)


def _ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3
