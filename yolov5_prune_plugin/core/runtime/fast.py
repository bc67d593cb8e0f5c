"""A module that runs another one on the sparse kernels, and torch where these can't."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from yolov5_prune_plugin.core.runtime import choose
from yolov5_prune_plugin.core.runtime.graph import Convolution, Value, trace
from yolov5_prune_plugin.core.runtime.native import kernels, this_machine
from yolov5_prune_plugin.core.runtime.plan import Choice, Planner
from yolov5_prune_plugin.core.runtime.program import Program
from yolov5_prune_plugin.core.runtime.streams import entries
from yolov5_prune_plugin.errors import PruneError

SHAPES = 8  # programs that are kept
TOGETHER = 320 * 320  # pixels for each thread that go through the layers together, so that caches hold their maps


@dataclass
class LayerTimes:
    """One convolution, measured.

    Attributes:
        name: Of its weight.
        shape: Of its weight.
        zeros: Share of its weights.
        multiplications: Of an image, zeros counted too.
        kernel: ``dense`` or ``sparse``, with the output channels of a block.
        before: Milliseconds in PyTorch, activation included.
        ms: Milliseconds here.
        share: Of the time of all steps.
    """

    name: str
    shape: tuple[int, ...]
    zeros: float
    multiplications: int
    kernel: str
    before: float
    ms: float
    share: float

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "shape": list(self.shape)}


class FastModel(nn.Module):
    """The same outputs as a model's, computed without its zeros.

    A program is made for each shape of input when it first comes. What the kernels can't do runs in PyTorch; so do
    training, gradients, other devices and types, and calls with more than tensors. Weights that change are noticed by
    torch's version counters; after changes through ``.data`` call ``forget``.

    Args:
        model: In eval mode, float32, on the CPU.
        level: ``avx512``, ``avx2`` or ``sse``: use no more than that; None is what the processor has.
        plan: Choices as ``save_plan`` wrote them, JSON; None measures.

    Raises:
        PruneError: If llvmlite is missing, the processor unknown, or the plan is not one for this model.

    Attributes:
        reasons: Why calls went to PyTorch, and how many did.
    """

    def __init__(self, model: nn.Module, level: Optional[str] = None, plan: Optional[str] = None) -> None:
        super().__init__()
        self.model = model
        self._kernels = kernels(this_machine(level))
        self._wanted: Optional[dict[str, Choice]] = None if plan is None else choose.read(plan, self._kernels)
        self._chosen: Optional[dict[str, Choice]] = self._wanted
        self._programs: OrderedDict[Any, Program] = OrderedDict()
        self._seen: Any = None
        self._watch()
        self.reasons: dict[str, int] = {}
        self.training = model.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own programs."""
        return {
            **self.__dict__,
            "_programs": OrderedDict(),
            "_seen": None,
            "_tables": [],
            "_tensors": [],
            "_kernels": self._kernels.target,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._kernels = kernels(state["_kernels"])
        self._watch()

    @property
    def level(self) -> str:
        """The kernels' vectors: ``avx512``, ``avx2``, ``sse`` or ``neon``."""
        return self._kernels.target.level

    def forget(self) -> None:
        """Make all programs anew when they are needed next."""
        self._programs.clear()
        self._chosen = self._wanted

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """Compute what the model computes.

        Args:
            inputs: One tensor or more.
            keywords: Any makes PyTorch do it, unless all are off.
        """
        given = inputs
        while len(given) > 1 and given[-1] in (None, False) and not isinstance(given[-1], Tensor):
            given = given[:-1]
        reason = self._unfit(given, keywords)
        if reason:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            return self.model(*inputs, **keywords)
        return self.program(*given)(*given, threads=torch.get_num_threads())

    def _unfit(self, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
        if self.model.training:
            return "training"
        if any(value not in (False, None) for value in keywords.values()):
            return " and ".join(sorted(name for name, value in keywords.items() if value not in (False, None)))
        if not inputs or not all(isinstance(x, Tensor) for x in inputs):
            return "arguments that are no tensors"
        for x in inputs:
            if x.device.type != "cpu":
                return f"a model on {x.device.type}"
            if x.dtype is not torch.float32:
                return f"input in {str(x.dtype).replace('torch.', '')}"
            if x.dim() != 4 or not x.numel():
                return "input that is no batch of images"
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return "gradients"
        return ""

    def program(self, *inputs: Tensor) -> Program:
        """The program for the shape of inputs; made when it is not there.

        Args:
            inputs: As they are given to the model.
        """
        seen = self._state()
        if seen != self._seen:
            self.forget()
            self._check()
            self._watch()
            self._seen = self._state()
        threads = torch.get_num_threads()
        key = (tuple(tuple(x.shape) for x in inputs), threads > 1 and threads)
        found = self._programs.get(key)
        if found is None:
            with torch.inference_mode(False):
                graph = trace(self.model, *(x.clone() for x in inputs))
                planner = Planner(graph, self._kernels, threads, together=_together(inputs, threads))
            if self._chosen is None:
                chosen = choose.measured(planner)
                self._chosen = {name: chosen[c] for c, name in choose.labels(planner).items()}
            found = Program(planner.plan(choose.applied(planner, self._chosen)), self._kernels)
            self._programs[key] = found
            if len(self._programs) > SHAPES:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return found

    def _watch(self) -> None:
        """Note what is looked at before each frame."""
        modules = list(self.model.modules())
        tables: Iterable[dict[str, Any]] = (table for m in modules for table in (m._parameters, m._buffers, m._modules))
        self._tables: list[dict[str, Any]] = [self._modules, *(table for table in tables if table)]
        held = chain(self.model.parameters(), self.model.buffers())
        self._tensors = [tensor for tensor in held if not tensor.is_inference()]  # those have no versions

    def _state(self) -> tuple[list[int], list[int]]:
        """What changes when a module, a parameter or a buffer is another one, or its numbers change."""
        held = chain.from_iterable(map(dict.values, self._tables))
        return list(map(id, held)), [tensor._version for tensor in self._tensors]

    def _check(self) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.device.type != "cpu":
                raise PruneError(f"the sparse runtime runs on the CPU; {name} is on {parameter.device}")
            if parameter.dtype is not torch.float32:
                raise PruneError(f"the sparse runtime needs float32 weights; {name} is {parameter.dtype}")

    def save_plan(self, *inputs: Tensor) -> str:
        """How each layer is computed, as JSON that ``plan`` takes.

        Args:
            inputs: As the model gets them; their shape is what is measured.
        """
        program = self.program(*inputs)
        chosen = {layer.convolution: layer.choice for layer in program.plan.layers}
        planner_names: dict[Convolution, str] = {}
        for i, layer in enumerate(program.plan.layers):
            name = layer.convolution.name
            planner_names[layer.convolution] = name if name and name not in planner_names.values() else str(i)
        return choose.kept(chosen, planner_names, self._kernels)

    def left_to_torch(self, *inputs: Tensor) -> list[str]:
        """Operations that PyTorch does between the kernels.

        Args:
            inputs: As the model gets them.
        """
        return self.program(*inputs).plan.graph.left_to_torch

    def layers(self, *inputs: Tensor, repeats: int = 5) -> list[LayerTimes]:
        """Measure each convolution, here and in PyTorch.

        Args:
            inputs: As the model gets them.
            repeats: The fastest of so many counts.
        """
        threads, program = torch.get_num_threads(), self.program(*inputs)
        given = tuple(x.contiguous() for x in inputs)
        made: dict[Value, Tensor] = {}  # holds the memory
        bases = program.bases(given, made)
        times = np.full(len(program.plan.steps), np.inf)
        for _ in range(repeats):
            once = np.zeros(len(times))
            for at in program.parts(bases):
                for i in range(len(times)):
                    started = time.perf_counter()
                    program.run_steps(i, i + 1, at, threads)
                    once[i] += time.perf_counter() - started
            times = np.minimum(times, once)
        found = []
        for i, layer in enumerate(program.plan.layers):
            c, choice = layer.convolution, layer.choice
            if not c.own:
                continue
            ms = float(times[layer.steps.start : layer.steps.stop].sum()) * 1e3
            weight = c.weight.numpy()
            places = c.target.shape[2] * c.target.shape[3]
            dense = entries(weight, choice.block) * choice.block >= 0.97 * weight.size
            kernel = "dense" if dense else "sparse" + (f" {choice.block}x1" if choice.block > 1 else "")
            found.append(
                LayerTimes(c.name or str(i), tuple(weight.shape), float((weight == 0).mean()), weight.size * places,
                           kernel, _torch_ms(c, repeats), ms, ms / (times.sum() * 1e3))
            )  # fmt: skip
        return found


def _together(inputs: tuple[Tensor, ...], threads: int) -> int:
    """Images of a batch that go through the layers together."""
    return max(1, threads * TOGETHER // max(x.shape[2] * x.shape[3] for x in inputs))


def _torch_ms(c: Convolution, repeats: int) -> float:
    x = torch.rand(c.source.shape)
    activations: dict[str, Any] = {
        "silu": functional.silu, "relu": functional.relu, "hardswish": functional.hardswish, "sigmoid": torch.sigmoid,
        "leaky_relu": functional.leaky_relu,
    }  # fmt: skip
    best = float("inf")
    with torch.no_grad():
        for _ in range(repeats):
            started = time.perf_counter()
            y = functional.conv2d(x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups)
            if c.activation in activations:
                activations[c.activation](y)
            best = min(best, time.perf_counter() - started)
    return best * 1e3
