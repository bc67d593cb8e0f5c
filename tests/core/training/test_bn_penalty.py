"""Sparsity training of BatchNorm scales: the subgradient is that of an L1 norm in the loss, once an optimizer step."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.core.training.bn_penalty import Penalty, scales_of, summary
from yolov5_prune_plugin.reporting.training_figure import plot_scales


def net() -> nn.Sequential:
    """Two BatchNorms."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def penalty(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> Penalty:
    """Attached."""
    made = Penalty(scales_of(model, dict(model.named_parameters())), rate)
    made.attach(optimizer)
    return made


def test_one_step_by_hand() -> None:
    """Without another gradient: 1 - lr * rate; a scale of 0 stays, a negative one rises."""
    model = net()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 0.0, -1.0, 2.0]))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    made = penalty(model, optimizer, 0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(model[1].weight.data, torch.tensor([0.95, 0.0, -0.95, 1.95]))
    torch.testing.assert_close(model[4].weight.data, torch.full((2,), 0.95))
    made.detach()
    optimizer.zero_grad()
    optimizer.step()
    assert model[4].weight.tolist() == pytest.approx([0.95] * 2)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_it_is_an_l1_norm_in_the_loss(make: type) -> None:
    """Accumulated over two batches, the penalty counts once."""
    ours, plain = net(), net()
    optimizers = [make(model.parameters(), lr=0.01) for model in (ours, plain)]
    penalty(ours, optimizers[0], 0.3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        batches = [torch.rand(2, 3, 4, 4, generator=generator) for _ in range(2)]
        for model, optimizer in zip((ours, plain), optimizers):
            optimizer.zero_grad()
            for batch in batches:
                model(batch).square().sum().backward()
            if model is plain:
                (0.3 * sum(m.weight.abs().sum() for m in model if isinstance(m, nn.BatchNorm2d))).backward()
            optimizer.step()
    for one, two in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(one, two)


def test_a_step_that_is_skipped_adds_nothing() -> None:
    """An AMP scaler that finds an infinite gradient does not step."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    penalty(model, optimizer, 0.5)
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(torch.full((2, 3, 2, 2), torch.inf)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    optimizer.zero_grad()
    scaler.scale(model[1].weight.sum() * 0).backward()
    scaler.step(optimizer)  # its gradient of 0 is not scaled with the others
    torch.testing.assert_close(model[1].weight.data, before["1.weight"] - 0.05)


def test_frozen_scales_are_left_out() -> None:
    """And BatchNorms without scales."""
    model = net()
    model.append(nn.BatchNorm2d(2, affine=False))
    assert list(scales_of(model, {"1.weight", "0.weight"})) == ["1.weight"]


def test_summary_by_hand(tmp_path: Path) -> None:
    """Two of six are near zero; quantiles are of the sizes."""
    model = net()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.001, -0.009, 0.5, -2.0]))
    found = summary(scales_of(model, dict(model.named_parameters())))
    assert found["near_zero"] == pytest.approx(2 / 6)
    assert found["gamma_max"] == 2
    assert found["gamma_min"] == pytest.approx(0.001)
    assert found["gamma_median"] == pytest.approx(0.75)
    plot_scales([{"epoch": 0, **found}, {"epoch": 1, **found}], 0.3, "scales", tmp_path / "g.png")
    assert (tmp_path / "g.png").stat().st_size > 5000
