"""Several forward passes side by side, layer by layer: sequential calibration in one pass over the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn


def calibrate_sequentially(
    model: nn.Module,
    batches: Sequence[Tensor],
    layers: Sequence[nn.Module],
    visit: Callable[[nn.Module, list[Tensor]], None],
) -> None:
    """Run all batches through a model at the same time, and stop at each layer before it computes.

    Each batch, of a shape of its own, has a thread; one computes at a time, and all wait for each other before each
    layer. There ``visit`` may change the layer, and so all that comes after it is computed from what earlier changes
    produce. One pass over the model, while calibrating a layer at a time would take one for each. Live at a time: what
    the model holds of all batches at one point of its forward pass.

    Args:
        model: In eval mode; its forward must call the layers in the same order for every batch.
        batches: Inputs.
        layers: Modules with one tensor as input.
        visit: Called with a layer and its inputs, one a batch, in their order, whenever the model calls the layer.

    Raises:
        Exception: What the model or ``visit`` raises.
    """
    waiting: list[Optional[tuple[Optional[nn.Module], Tensor]]] = [None] * len(batches)
    errors: list[BaseException] = []
    ended = [threading.Event() for _ in batches]
    me = threading.local()
    # upstream's head keeps the grid of the batch it is at, so batches must not interleave there
    turn = threading.Lock()

    def all_here() -> None:
        at = [entry for entry in waiting if entry]
        if any(layer is not at[0][0] for layer, _ in at):
            raise RuntimeError("the model calls its layers in another order for another batch")
        if at[0][0] is not None:
            with torch.no_grad():
                visit(at[0][0], [inputs for _, inputs in at])

    barrier = threading.Barrier(len(batches), action=all_here)

    def stop(layer: Optional[nn.Module], inputs: Any) -> None:
        waiting[me.index] = layer, inputs[0]
        turn.release()
        try:
            barrier.wait()
        finally:
            turn.acquire()
        waiting[me.index] = None

    def run(index: int) -> None:
        me.index = index
        try:
            with turn, torch.no_grad():
                model(batches[index])
                stop(None, (batches[index],))  # the end, where all must meet too
        except BaseException as error:
            if not isinstance(error, threading.BrokenBarrierError):
                errors.append(error)
            barrier.abort()
        finally:
            ended[index].set()

    hooks = [layer.register_forward_pre_hook(stop) for layer in layers]
    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(batches))]
    try:
        for thread in threads:
            thread.start()
        for done in ended:  # not join(): if Ctrl-C interrupts it, Python 3.11 takes the thread for ended
            done.wait()
    finally:
        barrier.abort()
        for thread, done in zip(threads, ended):  # a process that ends while one computes is aborted by the C++ below
            if thread.ident is not None:
                done.wait()
                thread.join()
        for hook in hooks:
            hook.remove()
    if errors:
        raise errors[0]
