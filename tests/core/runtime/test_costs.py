"""Times of layers at amounts, and amounts for a share of the time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.chooser import Table
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.target import amounts_for_time
from yolov5_prune_plugin.errors import PruneError


def by_hand(name: str, amounts: tuple[float, ...]) -> tuple[float, ...]:
    """Layer a takes 4 ms dense and b 1 ms; half of that at half of the zeros."""
    return tuple({"a": 4.0, "b": 1.0}[name] * (1 - amount) for amount in amounts)


TABLES = {"a": Table((0.0, 0.5, 0.75), (0.0, 1.0, 9.0), (7.0, 7.0, 7.0)),
          "b": Table((0.0, 0.5, 0.75), (0.0, 1.0, 2.0), (7.0, 7.0, 7.0))}  # fmt: skip


@pytest.mark.parametrize(
    ("left", "amounts", "ms"),
    [
        (0.7, {"a": 0.5, "b": 0.0}, 4.0),  # of 6 ms 1.8 go: a's half saves 2 for 1
        (0.6, {"a": 0.5, "b": 0.5}, 3.5),  # 2.4 go
        (0.55, {"a": 0.5, "b": 0.75}, 3.25),  # 2.7 go
        (0.45, {"a": 0.75, "b": 0.5}, 2.5),
    ],
)
def test_the_least_loss_for_the_time(left: float, amounts: dict[str, float], ms: float) -> None:
    """Both layers and 1 ms of other things: 6 ms."""
    chosen, total = amounts_for_time(left, TABLES, by_hand, 1.0)
    assert chosen == amounts
    assert total == pytest.approx(ms)


def test_too_little_time() -> None:
    with pytest.raises(
        PruneError, match=r"0.3 of the time cannot be reached: at least 0.375 of 6.00 ms is left; 0.167"
    ):
        amounts_for_time(0.3, TABLES, by_hand, 1.0)


@pytest.mark.parametrize("grain", ["weight", "4x1", "channel"])
def test_measured(grain: str) -> None:
    """Every layer of the model has times, in any grain, and more zeros take no longer; the model is not changed."""
    pytest.importorskip("llvmlite")
    from yolov5_prune_plugin.core.runtime.costs import AMOUNTS, measured_costs

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.SiLU(), nn.Conv2d(32, 32, 3, 2, groups=2),
                        nn.Conv2d(32, 64, 3), nn.AvgPool2d(2)).half().train()  # fmt: skip
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    seen: list[int] = []
    names = ["0.weight", "3.weight", "4.weight", "elsewhere.weight"]
    costs = measured_costs(net, (64, 96), names, Granularity.parse(grain), lambda: seen.append(1))
    assert list(costs.layers) == names[:3]
    for times in costs.layers.values():
        assert len(times) == len(AMOUNTS)
        assert all(a >= b > 0 for a, b in zip(times, times[1:]))
    assert costs.dense == pytest.approx(costs.rest + sum(times[0] for times in costs.layers.values()))
    assert costs.at("4.weight", (0.0, 0.4)) == pytest.approx(
        (costs.layers["4.weight"][0], sum(costs.layers["4.weight"][1:3]) / 2)
    )
    assert len(seen) == len(AMOUNTS)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
