"""A forward pass that takes up at the changed layer gives the bits of a full one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.replay import Replay


class Skips(nn.Module):
    """As YOLOv5's: a list of blocks, some of which look further back."""

    def __init__(self, activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            activation(inplace=True),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
            nn.Conv2d(8, 2, 1),
        ).eval()

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.model[0](x)
        second = self.model[1](first)
        third = self.model[2](second)
        out = self.model[3](torch.cat([second, third], 1))
        return out, [third]


def full(model: nn.Module, batch: Tensor) -> tuple[Tensor, list[Tensor]]:
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("index", [0, 2, 3])
def test_bits_of_a_full_pass(activation: type[nn.Module], index: int) -> None:
    """In-place activations too, which change what an earlier block gave."""
    model = Skips(activation)
    batch = torch.randn(2, 3, 8, 8)
    replay = Replay(model, batch)
    assert torch.equal(replay.outputs[0], full(model, batch)[0])
    changed = model.model[index] if index != 2 else model.model[2][0]
    changed.weight.data[:1] = 0
    for _ in range(2):
        outputs = replay.run(changed)
        expected = full(model, batch)
        assert torch.equal(outputs[0], expected[0])
        assert torch.equal(outputs[1][0], expected[1][0])
    assert not torch.equal(replay.outputs[0], expected[0])


def test_what_came_before_is_not_computed_again() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    replay = Replay(model, torch.randn(1, 3, 4, 4))
    model[0].weight.data.zero_()
    before = replay.outputs
    assert torch.equal(replay.run(model[2]), before)
    assert not torch.equal(replay.run(model[0]), before)


def test_a_forward_of_its_own_comes_back() -> None:
    """Upstream's fused Conv has one: an attribute of the instance."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    own = model[0].forward
    model[0].forward = own
    Replay(model, torch.randn(1, 3, 4, 4)).run(model[1])
    assert vars(model[0])["forward"] is own
    assert "forward" not in vars(model[1])


def test_a_block_used_twice_is_computed_again() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.b(self.a(x))))

    torch.manual_seed(0)
    model, batch = Twice(), torch.randn(1, 3, 4, 4)
    replay = Replay(model, batch)
    model.b.weight.data[0] = 0
    with torch.no_grad():
        assert torch.equal(replay.run(model.b), model(batch))
