"""A small detector, a segmenter and a classifier, and libraries of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from yolov5_prune_plugin.commands.compile.link import link
from yolov5_prune_plugin.core.library import pack, targets
from yolov5_prune_plugin.core.runtime import choose
from yolov5_prune_plugin.core.runtime.graph import trace
from yolov5_prune_plugin.core.runtime.plan import Planner

NAMES = ["cell", "platelet", "überzelle"]


class Block(nn.Module):
    """A convolution, BatchNorm and SiLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.bn(self.conv(x)))


class Backbone(nn.Module):
    """Strides, a sum, a pool, a join."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = Block(3, 12, 6, 2), Block(12, 16, 3, 2), Block(16, 16)
        self.down, self.up = Block(16, 24, 3, 2), Block(24, 16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.one(self.stem(x))
        x = x + self.two(x)
        deep = self.down(x)
        deep = deep + functional.max_pool2d(deep, 5, 1, 2)
        wide = functional.interpolate(self.up(deep), scale_factor=2, mode="nearest")
        return torch.cat((x, wide), 1), deep


class Detector(nn.Module):
    """As YOLOv5's: [B, N, 5 + classes]; a segmenter has coefficients and prototypes of masks, too."""

    def __init__(self, masks: int = 0) -> None:
        super().__init__()
        self.masks, self.no = masks, 5 + len(NAMES) + masks
        self.body = Backbone()
        self.heads = nn.ModuleList(nn.Conv2d(channels, 3 * self.no, 1) for channels in (32, 24))
        self.proto = Block(32, masks, 3) if masks else None

    def forward(self, x: Tensor) -> Any:
        maps, made = self.body(x), []
        for head, given, stride in zip(self.heads, maps, (4, 8)):
            y = head(given)
            b, _, ny, nx = y.shape
            y = y.view(b, 3, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            grid = torch.stack(torch.meshgrid(torch.arange(nx), torch.arange(ny), indexing="xy"), 2).float()
            anchors = torch.tensor([[10.0, 13], [16, 30], [33, 23]]).view(1, 3, 1, 1, 2).expand(1, 3, ny, nx, 2)
            xy, wh, conf, mask = y.split((2, 2, 1 + len(NAMES), self.masks), 4)
            xy, wh = (xy.sigmoid() * 2 + grid.expand(1, 3, ny, nx, 2)) * stride, (wh.sigmoid() * 2) ** 2 * anchors
            made.append(torch.cat((xy, wh, conf.sigmoid(), mask), 4).view(b, -1, self.no))
        found = torch.cat(made, 1)
        return found if self.proto is None else (found, self.proto(maps[0]))


class Classifier(nn.Module):
    """A mean of each channel and a Linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.linear = Backbone(), nn.Linear(24, len(NAMES))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(functional.adaptive_avg_pool2d(self.body(x)[1], 1).flatten(1))


def made(kind: type[nn.Module], zeros: float = 0.7, block: int = 1, **options: Any) -> nn.Module:
    """A model with zeros, in blocks of output channels, and BatchNorms that do something."""
    torch.manual_seed(0)
    model = kind(**options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
            module.weight.data.uniform_(0.5, 1.5)
        if isinstance(module, nn.Conv2d):
            rows = -(-len(module.weight) // block)
            kept = (torch.rand(rows, *module.weight.shape[1:]) >= zeros).repeat_interleave(block, 0)
            module.weight.data.mul_(kept[: len(module.weight)])
    return model


def machine_with(level: str) -> targets.Machine:
    """This kind of machine with one kind of kernels."""
    machine = targets.machine_of(None, None)
    found = tuple(one for one in machine.kernels if one[0] == level)
    return dataclasses.replace(machine, kernels=found) if found else machine


def planned(model: nn.Module, shape: tuple[int, ...], machine: targets.Machine, threads: int = 1) -> list[pack.Program]:
    """Programs for all kernels of a machine, for one thread and for some."""
    programs, x = [], torch.zeros(shape)
    for target in targets.targets_of(machine):
        shapes = targets.planned(target)
        planner = Planner(trace(model, x), shapes, 1)
        labels = choose.labels(planner)
        choices = {labels[c]: choose.candidates(c.weight.numpy(), c.groups, shapes)[0] for c in labels}
        programs += [pack.program(trace(model, x), shapes, n, choices) for n in sorted({1, threads})]
    return programs


def compiled(
    model: nn.Module, shape: tuple[int, ...], folder: Path, task: str = "detect",
    machine: targets.Machine | None = None, threads: int = 3, half: bool = False, flags: tuple[str, ...] = (),
) -> tuple[Path, list[pack.Program]]:  # fmt: skip
    """A library of a model, and the programs in it; what it was linked of stays in the folder."""
    machine = machine or targets.machine_of(None, None)
    programs = planned(model, shape, machine, threads)
    about = json.dumps({"task": task, "imgsz": list(shape[2:]), "stride": 8})
    data = pack.write(programs, task, NAMES, about, half)
    kernels = {targets.symbol(target): targets.compiled(target) for target in targets.targets_of(machine)}
    folder.mkdir(exist_ok=True)
    library = folder / f"lib{machine.suffix}"
    link(machine, kernels, data, library, folder, flags)
    return library, programs
