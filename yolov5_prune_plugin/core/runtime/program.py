"""Runs a plan: threads that enter the native function together, and torch for what is left to it."""

from __future__ import annotations

import ctypes
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from yolov5_prune_plugin.core.runtime import kernels as k
from yolov5_prune_plugin.core.runtime.graph import Torch, Value
from yolov5_prune_plugin.core.runtime.native import Kernels
from yolov5_prune_plugin.core.runtime.plan import Place, Plan, Span, aligned


def _relax() -> int:
    """Address of a native function that lets others run, for threads that wait long; 0 if there is none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0


class Team:
    """Threads that call one function together with the caller."""

    def __init__(self, threads: int) -> None:
        self.threads, self.process = threads, os.getpid()
        self._orders: list[queue.SimpleQueue[Any]] = []
        for number in range(1, threads):
            orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._orders.append(orders)
            threading.Thread(target=self._work, args=(number, orders), daemon=True).start()

    def _work(self, number: int, orders: queue.SimpleQueue[Any]) -> None:
        while True:
            order = orders.get()
            if order is None:
                return
            function, done = order
            function(number)
            del function, order
            done.put(None)

    def call(self, function: Callable[[int], object]) -> None:
        """Call a function with the number of the thread, in all threads at once.

        Args:
            function: Must end in all of them.
        """
        done: queue.SimpleQueue[None] = queue.SimpleQueue()  # of this call: an interrupted one leaves its own
        for orders in self._orders:
            orders.put((function, done))
        function(0)
        for _ in self._orders:
            done.get()

    def close(self) -> None:
        """Let the threads go."""
        for orders in self._orders:
            orders.put(None)


_TEAMS: dict[int, Team] = {}
_TEAM_LOCK = threading.Lock()


def team(threads: int) -> Team:
    """The threads of this process, of which there is one team for each number."""
    with _TEAM_LOCK:
        found = _TEAMS.get(threads)
        if found is None or found.process != os.getpid():  # a fork has no threads
            found = _TEAMS[threads] = Team(threads)
        return found


KEPT = 4  # outputs whose memory is used again


def _holders(arrays: list[np.ndarray]) -> list[int]:
    """References to each."""
    return [sys.getrefcount(array) for array in arrays]


ALONE = _holders([np.zeros(1)])[0]  # where there is only the list; how many that is depends on the Python


class Program:
    """A plan that can be run. One frame at a time; others wait.

    Args:
        plan: What to run.
        kernels: Compiled.
    """

    def __init__(self, plan: Plan, kernels: Kernels) -> None:
        self.plan, self.kernels = plan, kernels
        self._counters = np.zeros((len(plan.steps) + 1, 8), np.int64)
        self._relax = _relax()
        self._outputs: dict[int, list[np.ndarray]] = {}
        self._lock = threading.Lock()
        self._workspace = torch.from_numpy(plan.workspace)
        self._names = {v: i for i, v in enumerate(plan.graph.inputs)}
        fresh_clones = set()
        self._fixed: dict[Value, Tensor] = {}
        inputs = plan.graph.inputs
        self._images = inputs[0].shape[0]
        # bytes from an image to the next, of buffers that have the whole batch
        self._strides = np.zeros(plan.bases, np.uint64)
        for base, value in [*enumerate(inputs, 2), *((base, value) for value, base in plan.decoded.items())]:
            self._strides[base] = 4 * math.prod(value.shape[1:])
        for value, (base, _) in plan.fresh.items():
            self._strides[base] = 4 * plan.places[value].image
        for value, place in plan.places.items():
            if place.base == k.WORKSPACE and plan.together == self._images:  # else nobody asks for it
                self._fixed[value] = _seen(self._workspace, value, place)
        native = {t for o in plan.graph.operations if not isinstance(o, Torch) for t in [o.target]}
        self._stored = {v for v in self._fixed if v not in native}
        self._planes = {v: _planes(self._workspace, v, plan.places[v], plan.origins[v]) for v in self._stored}
        # views of new memory need no copy
        views = set(plan.fresh)
        for item in plan.sequence:
            if isinstance(item, Torch):
                name = item.function._schema.name.split("::")[-1]
                given = item.arguments[0] if item.arguments else None
                five = all(t is not None and len(t.shape) == 5 for t in item.targets)  # of a detector's head
                if five and isinstance(given, Value) and given in views and name in ("view", "permute", "clone"):
                    views |= {t for t in item.targets if t is not None}
                    if name == "clone":
                        fresh_clones.add(id(item))
        self._skipped, self._views = fresh_clones, views
        self._cuts: dict[
            Value, tuple[Value, Any, Any, int]
        ] = {}  # views, once they were made: what of, and where in it

    def run_steps(self, start: int, stop: int, bases: np.ndarray, threads: int) -> None:
        """Run some of the steps.

        Args:
            start: First.
            stop: After the last.
            bases: Addresses of the buffers.
            threads: That share the work.
        """
        self._counters.fill(0)
        threads = min(threads, self.plan.threads)
        steps, counters = self.plan.steps.ctypes.data, self._counters.ctypes.data
        address, relax, run = bases.ctypes.data, self._relax, self.kernels.run
        if threads == 1:
            run(steps, start, stop, address, counters, 1, 0, relax)
        else:
            team(threads).call(lambda number: run(steps, start, stop, address, counters, threads, number, relax))

    def bases(self, inputs: tuple[Tensor, ...], made: dict[Value, Tensor]) -> np.ndarray:
        """Addresses of all buffers; new memory for what is made anew each time.

        Args:
            inputs: Contiguous, float32.
            made: Where that memory is noted.
        """
        plan = self.plan
        bases = np.zeros(plan.bases, np.uint64)
        bases[k.WEIGHTS], bases[k.WORKSPACE] = plan.weights.ctypes.data, plan.workspace.ctypes.data
        for i, tensor in enumerate(inputs):
            bases[2 + i] = tensor.data_ptr()
        for value, base in plan.decoded.items():
            made[value] = self._memory(base, math.prod(value.shape)).view(value.shape)
            bases[base] = made[value].data_ptr()
        for value, (base, floats) in plan.fresh.items():
            memory = self._memory(base, floats)
            bases[base] = memory.data_ptr()
            made[value] = _seen(memory, value, plan.places[value])
        return bases

    def parts(self, bases: np.ndarray) -> Iterator[np.ndarray]:
        """Addresses of the buffers for the images that go through the steps together, one such part after the other.

        Args:
            bases: Those of the whole batch.
        """
        for first in range(0, self._images, self.plan.together):
            yield bases + self._strides * np.uint64(first)

    def _memory(self, base: int, floats: int) -> Tensor:
        """Memory for an output: new, or that of an earlier frame of which nobody holds a tensor any more."""
        kept = self._outputs.setdefault(base, [])
        for array, held in zip(kept, _holders(kept)):
            if held == ALONE:
                return torch.from_numpy(array)
        array = aligned(floats)
        if len(kept) < KEPT:
            kept.append(array)
        return torch.from_numpy(array)

    def __call__(self, *inputs: Tensor, threads: int) -> Any:
        """Run a frame.

        Args:
            inputs: As traced.
            threads: That share the work.

        Returns:
            What the model returns.
        """
        return self._frame(inputs, threads, None)

    def timed(self, *inputs: Tensor, threads: int) -> np.ndarray:
        """Seconds of each step in a frame, each run for itself in its turn.

        Args:
            inputs: As traced.
            threads: That share the work.
        """
        times = np.zeros(len(self.plan.steps))
        self._frame(inputs, threads, times)
        return times

    def _frame(self, inputs: tuple[Tensor, ...], threads: int, times: Optional[np.ndarray]) -> Any:
        with self._lock, torch.no_grad():
            inputs = tuple(x.contiguous() for x in inputs)
            made: dict[Value, Tensor] = dict(zip(self.plan.graph.inputs, inputs))
            bases = self.bases(inputs, made)
            for item in self.plan.sequence:
                if isinstance(item, Span):
                    for at in self.parts(bases):
                        if times is None:
                            self.run_steps(item.start, item.stop, at, threads)
                        for i in range(item.start, item.stop) if times is not None else ():
                            started = time.perf_counter()
                            self.run_steps(i, i + 1, at, threads)
                            times[i] += time.perf_counter() - started  # type: ignore[index]
                elif not all(target in self._cuts for target in item.targets):
                    self._torch(item, made)
            found = [self._output(x, made) for x in self.plan.graph.outputs]
        return _pytree.tree_unflatten(found, self.plan.graph.structure)

    def _tensor(self, value: Any, made: dict[Value, Tensor]) -> Any:
        if not isinstance(value, Value):
            return value
        if value in made:
            return made[value]
        if value in self._cuts:
            root, shape, strides, offset = self._cuts[value]
            return made[root].as_strided(shape, strides, made[root].storage_offset() + offset)
        return self._fixed[value]

    def _torch(self, item: Torch, made: dict[Value, Tensor]) -> None:
        seen = any(target in self._views for target in item.targets)

        def given(x: Any) -> Any:  # torch's own operations expect maps as torch lays them out
            tensor = self._tensor(x, made)
            return tensor.contiguous() if isinstance(x, Value) and x in self.plan.places and not seen else tensor

        arguments, keywords = _pytree.tree_map(given, (item.arguments, item.keywords))
        result = arguments[0] if id(item) in self._skipped else item.function(*arguments, **keywords)
        for value, tensor in zip(item.targets, result if isinstance(result, (tuple, list)) else [result]):
            if value is None:
                continue
            if value in self._stored:
                self._planes[value].zero_()  # other maps may have lain there
                self._fixed[value].copy_(tensor)
            else:
                made[value] = tensor
                if seen and isinstance(item.arguments[0], Value):
                    self._note_cut(value, item.arguments[0], tensor, made)

    def _note_cut(self, value: Value, given: Value, tensor: Tensor, made: dict[Value, Tensor]) -> None:
        root = self._cuts[given][0] if given in self._cuts else given
        if root in self.plan.fresh and tensor.untyped_storage().data_ptr() == made[root].untyped_storage().data_ptr():
            offset = tensor.storage_offset() - made[root].storage_offset()
            self._cuts[value] = root, tensor.shape, tensor.stride(), int(offset)

    def _output(self, value: Any, made: dict[Value, Tensor]) -> Any:
        if not isinstance(value, Value):
            return value
        tensor = self._tensor(value, made)
        inside = tensor.untyped_storage().data_ptr() == self._workspace.untyped_storage().data_ptr()
        if inside:
            return tensor.clone(memory_format=torch.contiguous_format)
        return tensor.contiguous() if tensor.dim() == 4 else tensor


def _planes(memory: Tensor, value: Value, place: Place, origin: int) -> Tensor:
    """All of a map's planes, with what is around them."""
    images, channels = value.shape[:2]
    return memory.as_strided((images, channels, place.plane), (place.image, place.plane, 1), place.offset // 4 - origin)


def _seen(memory: Tensor, value: Value, place: Place) -> Tensor:
    """A map in memory as torch sees it."""
    return memory.as_strided(
        value.shape, (place.image, place.plane, place.row, 1), memory.storage_offset() + place.offset // 4
    )
