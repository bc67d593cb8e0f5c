"""Several batches through a model side by side, stopping at each layer."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.second_order.sequential_calibration import calibrate_sequentially


class Times(nn.Module):
    """Multiplies by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Choosy(nn.Module):
    """Takes another way for negative inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Times(2), Times(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(x)) if x.sum() < 0 else self.b(self.a(x))


class Early(Choosy):
    """Leaves a layer out for negative inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() < 0 else self.b(self.a(x))


def test_a_layer_sees_what_earlier_changes_produce() -> None:
    """1 and 3 go through x2, which becomes x5 on the way, and x10."""
    model = nn.Sequential(Times(2), Times(10))
    seen = []

    def visit(layer: nn.Module, inputs: list[Tensor]) -> None:
        seen.append((layer is model[1], [x.item() for x in inputs]))
        layer.factor = 5

    calibrate_sequentially(model, [torch.ones(1), torch.full((1,), 3.0)], list(model), visit)
    assert seen == [(False, [1, 3]), (True, [5, 15])]


def test_batches_keep_their_order_whatever_their_shapes() -> None:
    """Eight of different sizes."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 1)).eval()
    batches = [torch.randn(1 + i % 2, 1, 5 + i, 9 - i) for i in range(6)]
    shapes = []
    calibrate_sequentially(
        model, batches, [model[0], model[2]], lambda _, inputs: shapes.append([tuple(x.shape) for x in inputs])
    )
    assert shapes[0] == [tuple(batch.shape) for batch in batches]
    assert shapes[1] == [(1 + i % 2, 2, 3 + i, 7 - i) for i in range(6)]


def test_a_layer_used_twice_is_visited_twice() -> None:
    """The second time with what the first gave."""
    shared = Times(2)
    seen = []
    calibrate_sequentially(
        nn.Sequential(shared, shared), [torch.ones(1)], [shared], lambda _, inputs: seen.append(inputs[0].item())
    )
    assert seen == [1, 2]


def test_layers_that_are_not_asked_for_are_not_visited() -> None:
    """And one that the forward pass does not reach is not either."""
    model = nn.Sequential(Times(2), Times(3))
    seen = []
    calibrate_sequentially(model, [torch.ones(1)], [model[1], Times(4)], lambda layer, _: seen.append(layer.factor))
    assert seen == [3]


def test_no_gradients_are_kept() -> None:
    """In the threads too, where torch's switch starts afresh."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    kept = []
    calibrate_sequentially(model, [torch.ones(1, 1, 2, 2)] * 2, list(model), lambda _, inputs: kept.extend(inputs))
    assert not any(x.requires_grad for x in kept)


@pytest.mark.parametrize("batches", [1, 3])
def test_what_visit_raises_comes_out_and_hooks_are_gone(batches: int) -> None:
    """No thread is left waiting."""
    model, before = nn.Sequential(Times(2), Times(3)), set(threading.enumerate())

    def visit(layer: nn.Module, inputs: list[Tensor]) -> None:
        if layer is model[1]:
            raise ValueError("enough")

    with pytest.raises(ValueError, match=r"^enough$"):
        calibrate_sequentially(model, [torch.ones(1)] * batches, list(model), visit)
    assert not any(layer._forward_pre_hooks for layer in model)
    assert set(threading.enumerate()) <= before


def test_ctrl_c_ends_all_threads() -> None:
    """A process that ends while one of them computes would be aborted: the layer at work is finished, and no other."""
    worked = []

    class Slow(Times):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.3)
            worked.append(self.factor)
            return x

    model = nn.Sequential(Slow(2), Slow(3))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            calibrate_sequentially(model, [torch.ones(1)], list(model), lambda *_: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert worked == [2]
    assert not any(layer._forward_pre_hooks for layer in model)


def test_what_the_model_raises_comes_out() -> None:
    """For one of the batches only: 4 channels do not fit."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(RuntimeError, match="expected input"):
        calibrate_sequentially(model, [torch.ones(1, 3, 2, 2), torch.ones(1, 4, 2, 2)], list(model), lambda *_: None)


@pytest.mark.parametrize("model", [Choosy(), Early()])
def test_a_model_that_decides_by_its_inputs_is_refused(model: nn.Module) -> None:
    """Not waited for without end."""
    with pytest.raises(RuntimeError, match="calls its layers in another order for another batch"):
        calibrate_sequentially(model, [torch.ones(1), -torch.ones(1)], [model.a, model.b], lambda *_: None)
