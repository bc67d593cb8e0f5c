"""Small networks with the joints that detectors have, for tests of channel groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(a: int, b: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm with statistics that are not its first ones, SiLU."""
    norm = nn.BatchNorm2d(b)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
    return nn.Sequential(nn.Conv2d(a, b, kernel, padding=kernel // 2, groups=groups, bias=False), norm, nn.SiLU())


class Plain(nn.Module):
    """3 -> 4 -> 6 -> 2: two groups, of 4 and of 6 channels; the last layer gives the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


class Block(nn.Module):
    """One of: a residual, a concatenation, a depthwise pair (ghost), one with a shortcut, a pool pyramid."""

    KINDS = ("residual", "concat", "ghost", "ghost residual", "pools", "plain", "up")

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind, half = kind, width // 2
        self.first = conv(width, half if kind.startswith("ghost") else width, 3)
        if kind.startswith("ghost"):
            self.second = conv(half, half, 3, half)
        elif kind == "concat":
            self.second, self.last = conv(width, half), conv(width + half, width)
        elif kind == "pools":
            self.last = conv(3 * width, width)
        elif kind == "up":
            self.second = nn.ConvTranspose2d(width, width, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.kind == "residual":
            return x + y
        if self.kind == "concat":
            return self.last(torch.cat((y, self.second(x)), 1))
        if self.kind.startswith("ghost"):
            y = torch.cat((y, self.second(y)), 1)
            return x + y if "residual" in self.kind else y
        if self.kind == "pools":
            one = nn.functional.max_pool2d(y, 3, 1, 1)
            return self.last(torch.cat((y, one, nn.functional.max_pool2d(one, 3, 1, 1)), 1))
        return self.second(y)[..., ::2, ::2] if self.kind == "up" else y


class Chain(nn.Module):
    """A stem, blocks, and a head of two outputs."""

    def __init__(self, kinds: list[str], width: int = 8) -> None:
        super().__init__()
        self.stem = conv(3, width, 3)
        self.blocks = nn.Sequential(*(Block(kind, width) for kind in kinds))
        self.head, self.other = nn.Conv2d(width, 5, 1), nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.blocks(self.stem(x))
        return [self.head(y), self.other(y)]
