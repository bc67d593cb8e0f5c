"""PositionWeights maps: squared gradients at a layer's output positions, by image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.second_order.hessian import BACKGROUND, Moments
from yolov5_prune_plugin.core.second_order.position_weights import PositionWeights


def passed(model: nn.Module, image: Tensor, weight: Tensor) -> None:
    """One forward pass, and a backward pass of the weighted sum of the output."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    torch.autograd.grad((model(image) * weight).sum(), list(model.parameters()))


def test_squared_gradients_scaled_to_a_mean_of_one() -> None:
    """Gradients 1, 3 at two positions: squares 1, 9, whose mean is 5."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    with PositionWeights(model, ["0.weight"], 4) as position_weights:
        passed(model, torch.ones(1, 1, 1, 2), torch.tensor([1.0, 3.0]))
    assert position_weights.maps[0]["0.weight"].tolist() == [
        torch.tensor(0.2).half().item(),
        torch.tensor(1.8).half().item(),
    ]


def test_channels_are_averaged() -> None:
    """Gradients (1, 3) and (2, 0) of two channels: squares average to 2.5 and 4.5."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    with PositionWeights(model, ["0.weight"], 4) as position_weights:
        passed(model, torch.ones(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]]))
    assert torch.allclose(position_weights.maps[0]["0.weight"].float(), torch.tensor([2.5, 4.5]) / 3.5, atol=1e-3)


def test_only_so_many_images_and_no_hooks_afterwards() -> None:
    """The third image is passed over; after the context nothing is noted."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    with PositionWeights(model, ["0.weight"], 2) as position_weights:
        for _ in range(3):
            passed(model, torch.ones(1, 1, 2, 2), torch.ones(()))
    passed(model, torch.ones(1, 1, 2, 2), torch.ones(()))
    assert len(position_weights.maps) == 2
    assert not model._forward_pre_hooks
    assert not model[0]._forward_hooks


def test_layers_without_gradient_are_left_out() -> None:
    """An output that matters nowhere has no map, nor has one that is no image."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 2))
    with PositionWeights(model, ["0.weight", "2.weight"], 2) as position_weights:
        passed(model, torch.ones(1, 1, 2, 2), torch.zeros(()))
        passed(model, torch.ones(1, 1, 2, 2), torch.ones(()))
    assert position_weights.maps[0] == {}
    assert list(position_weights.maps[1]) == ["0.weight"]


def test_positions_count_by_salience() -> None:
    """Inputs 1 and 5 with position_weights 0 and 2: the mean is (0.3 * 1 + 1.7 * 5) / 2."""
    moments = Moments(nn.Conv2d(1, 1, 1), "a", 9)
    moments.add(torch.tensor([[[[1.0, 5.0]]]]), 1, [torch.tensor([0.0, 2.0])])
    assert BACKGROUND == 0.3
    assert torch.allclose(moments.mean, torch.tensor([[4.4]], dtype=torch.float64))
    assert torch.allclose(moments.second, torch.tensor([[[(0.3 * 1 + 1.7 * 25) / 2]]], dtype=torch.float64))


def test_positions_are_drawn_by_salience() -> None:
    """Of 1,000 positions, 100 that matter ten times as much as the mean: they are 73% of what is drawn."""
    inputs = torch.zeros(1, 1, 1, 1000)
    inputs[..., :100] = 1
    position_weights = torch.zeros(1000)
    position_weights[:100] = 10
    moments = Moments(nn.Conv2d(1, 1, 1), "a", 512)
    moments.add(inputs, 1, [position_weights])
    assert abs(float(moments.mean) - 0.73) < 0.06
