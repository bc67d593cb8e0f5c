"""What masks cost: a step of yolov5s with them beside a plain one, and the optimizer's part alone on yolov5x.

    python -m benchmarks.dns_cost [--model yolov5s] [--batch 16] [--imgsz 320] [--repeat 15] [--only step|optimizer]

Contenders take turns in one process, on the CPU, on copies of one model: plain; ours with masks updated at every step,
and with masks frozen; masks as torch.nn.utils.prune keeps them; and a straight-through parametrisation. The step is
forward, backward of a sum of squares (less than upstream's loss, so the ratio is rather too high) and SGD with Nesterov
momentum. The order of turns alternates; a ratio is the median over turns of a contender's time to the plain one's in
that turn. Memory is that of all tensors which are there between two steps beside parameters, gradients and the
optimizer's state, in bytes a masked weight: what a parametrisation computes within a step is not in it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from benchmarks.table import print_table
from yolov5_prune_plugin.core.training.dns import DnsRule
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule

CONTENDERS = ("plain", "ours, updating", "ours, frozen", "nn.utils.prune", "straight-through parametrisation")


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


class _Through(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Weight times mask; the gradient goes to all of the weight."""
        return _StraightThrough.apply(weight, self.mask)


def build(name: str) -> nn.Module:
    """A model of the PyPI package, with random weights."""
    from yolov5_prune_plugin.yolov5.compat.apply import apply

    package = Path(next(iter(importlib.util.find_spec("yolov5").submodule_search_locations)))  # type: ignore[union-attr]
    apply(package)
    from yolov5.models.yolo import Model  # type: ignore[import-not-found]

    torch.manual_seed(0)
    return Model(str(package / "models" / f"{name}.yaml"), ch=3, nc=80).train()


def prepare(contender: str, model: nn.Module) -> torch.optim.Optimizer:
    """Mask half of each convolution; the optimizer."""
    convs = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    masks = {name: m.weight.abs() > m.weight.abs().median() for name, m in convs.items()}
    if contender == "nn.utils.prune":
        for name, module in convs.items():
            prune.custom_from_mask(module, "weight", masks[name])
    elif contender.startswith("straight"):
        for name, module in convs.items():
            parametrize.register_parametrization(module, "weight", _Through(masks[name].float()))
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, nesterov=True)
    if contender.startswith("ours"):
        parameters = {name: m.weight for name, m in convs.items()}
        rule: Rule = Rule()
        if contender == "ours, updating":
            rule = DnsRule([list(parameters)], c_rates=dict.fromkeys(parameters, 0.0), gamma=0.0)
        masked = Masked(parameters, rule)
        masked.prepare(masks)
        masked.attach(optimizer, lambda: 10**6)
    return optimizer


def storages() -> dict[int, int]:
    """Bytes of each storage that a tensor in Python has, by address."""
    gc.collect()
    found = (one for one in gc.get_objects() if type(one) in (Tensor, nn.Parameter))
    return {s.data_ptr(): s.nbytes() for s in (one.untyped_storage() for one in found)}


def beside(model: nn.Module, optimizer: torch.optim.Optimizer, before: Iterable[int]) -> int:
    """Bytes of all storages but those ``before``, the model's own, gradients and the optimizer's state."""
    of_model = [*model.parameters(), *(b for name, b in model.named_buffers() if not name.endswith("mask"))]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    known = {one.untyped_storage().data_ptr() for one in (*of_model, *gradients, *states)}.union(before)
    return sum(size for address, size in storages().items() if address not in known)


def compare(
    title: str, model: nn.Module, repeat: int, part: Callable[[nn.Module, torch.optim.Optimizer], float]
) -> None:
    """Time all contenders in turn, and print them beside the plain one."""
    ready, held = {}, {}
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    for contender in CONTENDERS:
        before = storages()
        one = copy.deepcopy(model)
        optimizer = prepare(contender, one)
        part(one, optimizer)  # warms up
        held[contender] = beside(one, optimizer, before) / weights
        ready[contender] = one, optimizer
    seconds: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    for turn in range(repeat):
        for contender in CONTENDERS[:: 1 if turn % 2 else -1]:
            seconds[contender].append(part(*ready[contender]))
    rows = []
    for name, taken in seconds.items():
        ratios = sorted(own / plain for own, plain in zip(taken, seconds["plain"]))
        quartiles = f"{ratios[len(ratios) // 4]:.3f}-{ratios[-1 - len(ratios) // 4]:.3f}"
        rows.append((name, f"{statistics.median(taken):.3f}", f"{statistics.median(ratios):.3f}", quartiles,
                     f"{held[name]:.2f}"))  # fmt: skip
    print_table(title, ("", "seconds, median", "ratio", "quartiles", "bytes a weight"), rows)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5s", help="of the whole step (yolov5s)")
    parser.add_argument("--large", default="yolov5x", help="of the optimizer's part (yolov5x)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("step", "optimizer"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.rand(options.batch, 3, options.imgsz, options.imgsz)

    def whole(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        sum(out.square().mean() for out in model(images)).backward()
        optimizer.step()
        return time.perf_counter() - began

    def step_only(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        for p in model.parameters():
            if p.grad is None:
                p.grad = torch.full_like(p, 1e-6)
        began = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - began

    if options.only != "optimizer":
        title = f"{options.model}, batch {options.batch}, {options.imgsz}, {options.threads} thread(s): one step"
        compare(title, build(options.model), options.repeat, whole)
    if options.only != "step":
        compare(f"{options.large}: the optimizer's part of a step", build(options.large), options.repeat, step_only)


if __name__ == "__main__":
    main()
