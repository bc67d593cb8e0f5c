"""Dynamic Network Surgery on MNIST: LeNet-300-100 and LeNet-5, dense, gradually pruned, and pruned and spliced.

    python -m benchmarks.dns_mnist --net lenet5 --way dns --rate 108 --seed 0          one run, on a validation split
    python -m benchmarks.dns_mnist --net lenet5 --way dns --rate 108 --seed 0 --final  all training data, then the test
    python -m benchmarks.dns_mnist --all [--final]                                     all runs of the table
    python -m benchmarks.dns_mnist --table                                             what there is, as tables

It goes through the classes that train.py uses: core.training.masked.Masked with DnsRule or Gradual. A
run trains a dense network, then goes on with it one of three ways, all for as many steps: the dense one too.
Without --final the last 5,000 training images are the validation set, which choices are made on, and the test set is
not opened. Results are JSON files in --out; a run whose file is there is passed over. Rates count every parameter,
biases too; biases are not pruned, except those of units that nothing uses any more. The networks themselves go to
--networks, for benchmarks.compress_mnist.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.table import print_table
from yolov5_prune_plugin.core.pruning.distribution import distribute
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Target
from yolov5_prune_plugin.core.training.dns import DnsRule
from yolov5_prune_plugin.core.training.gradual import Gradual, gradual_plan
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.files import written_whole

RATES = {"lenet300": (56.0,), "lenet5": (108.0,)}
EPOCHS = {"lenet300": (20, 80), "lenet5": (10, 40)}  # dense, then sparse
LEARNING = {"lenet300": 0.1, "lenet5": 0.02}
DISTRIBUTION = {"lenet300": "global", "lenet5": "paper"}  # chosen on the validation set
PAPER = {"lenet300": (4351, 552, 49), "lenet5": (72, 770, 2920, 215)}  # weights that the authors' networks keep
HELD_OUT = 5000


def network(name: str) -> nn.Sequential:
    """LeNet-300-100, or Caffe's LeNet-5 with 20, 50 and 500 units."""
    if name == "lenet300":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
                             nn.Linear(100, 10))  # fmt: skip
    model = nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))  # fmt: skip
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # a third faster


def images(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels of ``train`` or ``t10k``."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as stream:
        pixels = torch.frombuffer(bytearray(stream.read()[16:]), dtype=torch.uint8).view(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as stream:
        labels = torch.frombuffer(bytearray(stream.read()[8:]), dtype=torch.uint8).long()
    return pixels.float() / 255, labels


def rule_of(options: argparse.Namespace, model: nn.Module, names: Mapping[str, nn.Module]) -> Rule:
    """Which masks, for a rate of all parameters."""
    if options.way == "dense":
        return Rule()
    biases = sum(p.numel() for name, p in model.named_parameters() if name not in names)
    total = sum(p.numel() for p in model.parameters())
    kept = total / options.rate - biases
    sparsity = 1 - kept / (total - biases)

    def drops(weights: Mapping[str, Tensor]) -> dict[str, int]:
        shares = PAPER[options.net]
        if options.distribution == "paper":  # the authors' proportions between layers, at this rate
            scale = kept / sum(shares)
            return {name: w.numel() - min(w.numel(), round(share * scale))
                    for (name, w), share in zip(weights.items(), shares)}  # fmt: skip
        scores = [(name, weight.abs()) for name, weight in weights.items()]
        shapes = {name: weight.shape for name, weight in weights.items()}
        return distribute(options.distribution, shapes, lambda: scores, sparsity)

    if options.way == "dns":
        return DnsRule([list(names)], options.start, options.stop, drops=drops, gamma=options.gamma,
                       power=options.power, seed=options.seed)  # fmt: skip
    targets = [Target(name, module) for name, module in names.items()]  # type: ignore[arg-type]
    plan = gradual_plan(options.start, options.stop, None, sparsity)
    if options.distribution != "paper":
        request = Request(sparsity, options.distribution)
        return Gradual(targets, lambda target, request: target.weight.detach().abs(), request, plan)
    lost = drops({name: module.weight for name, module in names.items()})
    amounts = {name: count / names[name].weight.numel() for name, count in lost.items()}
    return _PaperGradual(targets, lambda target, request: target.weight.detach().abs(),
                         Request(sparsity, amounts=amounts), plan)  # fmt: skip


class _PaperGradual(Gradual):
    """Gradual pruning to amounts by layer, all on the same cubic curve."""

    def _prune(self, sparsity: float, masked: Masked) -> Mapping[str, Tensor]:
        final, request = self.request.sparsity, self.request
        amounts = {name: amount * sparsity / final for name, amount in request.amounts.items()}
        self.request = Request(sparsity, amounts=amounts)
        counts = super()._prune(sparsity, masked)
        self.request = request
        return counts


def error(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of wrong answers, in percent."""
    model.eval()
    with torch.no_grad():
        wrong = sum(int((model(x).argmax(1) != y).sum()) for x, y in zip(data[0].split(1000), data[1].split(1000)))
    model.train()
    return 100 * wrong / len(data[1])


def phase(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    options: argparse.Namespace,
    epochs: int,
    masked: Masked | None,
    generator: torch.Generator,
) -> None:
    """SGD with a constant learning rate up to ``stop``, and along a cosine to 0 after it."""
    optimizer = torch.optim.SGD(model.parameters(), options.lr, momentum=0.9, nesterov=True, weight_decay=options.decay)
    a_turn = len(data[1]) // options.batch
    total = min(epochs * a_turn, options.steps or 10**9)
    if masked:
        masked.attach(optimizer, lambda: total)
    step = 0
    while step < total:
        order = torch.randperm(len(data[1]), generator=generator)
        for chosen in order[: a_turn * options.batch].split(options.batch)[: total - step]:
            late = max(0.0, (step / total - options.stop) / (1 - options.stop))
            for group in optimizer.param_groups:
                group["lr"] = options.lr * (1 + math.cos(math.pi * late)) / 2
            optimizer.zero_grad()
            functional.cross_entropy(model(data[0][chosen]), data[1][chosen]).backward()
            optimizer.step()
            step += 1
    if masked:
        masked.check()
        masked.detach()


def forget_dead_biases(model: nn.Sequential) -> None:
    """Zero the biases of units whose outputs nothing uses: no answer changes, and there is no need to store them."""
    layers = [module for module in model if hasattr(module, "weight")]
    for layer, after in zip(layers, layers[1:]):
        used = after.weight.detach().transpose(0, 1).flatten(1).count_nonzero(1)
        used = used.view(len(layer.bias), -1).sum(1)  # a channel is several inputs of the first linear layer
        layer.bias.data[used == 0] = 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train one network; what came out."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    pixels, labels = images(options.data, "train")
    train = (pixels, labels) if options.final else (pixels[:-HELD_OUT], labels[:-HELD_OUT])
    model = network(options.net)
    began = time.perf_counter()
    dense, sparse = options.epochs
    phase(model, train, options, dense, None, generator)
    names = {f"{name}.weight": module for name, module in model.named_modules() if hasattr(module, "weight")}
    masked = Masked({name: module.weight for name, module in names.items()}, rule_of(options, model, names))
    masked.prepare()
    phase(model, train, options, sparse, masked, generator)
    forget_dead_biases(model)
    total = sum(p.numel() for p in model.parameters())
    kept = sum(int(p.count_nonzero()) for p in model.parameters())
    units = [int((m.weight.flatten(1).count_nonzero(1) > 0).sum()) for m in names.values()]
    result = {
        **{key: getattr(options, key) for key in KEYS}, "lr": options.lr, "decay": options.decay,
        "batch": options.batch, "start": options.start, "stop": options.stop, "gamma": options.gamma,
        "power": options.power, "kept": kept, "parameters": total, "compression": total / kept, "units": units,
        "layers": masked.kept, "updates": masked.updates, "steps": masked.step, "frozen": masked.frozen,
        "seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__,
    }  # fmt: skip
    options.networks.mkdir(parents=True, exist_ok=True)
    with written_whole(options.networks / f"{place(options).stem}.safetensors") as kept_in:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, kept_in)
    held = images(options.data, "t10k") if options.final else (pixels[-HELD_OUT:], labels[-HELD_OUT:])
    return {**result, "error": error(model, held)}


KEYS = ("net", "way", "rate", "seed", "distribution", "epochs", "final")


def place(options: argparse.Namespace) -> Path:
    """The file of a run."""
    rate = "dense" if options.way == "dense" else f"{options.way}-{options.distribution}-{options.rate:g}"
    more = f"-{options.tag}" if options.tag else ""
    kind = "test" if options.final else "validation"
    return Path(options.out) / f"{options.net}-{rate}-seed{options.seed}-{kind}{more}.json"


def do(options: argparse.Namespace) -> None:
    """One run, unless its file is there."""
    file = place(options)
    if file.exists():
        print(f"{file}: is there", flush=True)
        return
    result = run(options)
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{file}: error {result['error']:.2f}%, {result['compression']:.1f}x, {result['seconds']:.0f} s", flush=True)


def table(folder: Path) -> None:
    """Means over seeds."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        one = json.loads(file.read_text())
        tag = file.stem.rpartition("validation" if not one["final"] else "test")[2].strip("-")
        key = (one["net"], "test" if one["final"] else "validation", one["way"], one["distribution"], one["rate"], tag)
        found[key].append(one)
    rows = []
    for key, runs in found.items():
        errors = [one["error"] for one in runs]
        spread = f"{min(errors):.2f}-{max(errors):.2f}"
        kept = statistics.mean(one["kept"] for one in runs)
        rows.append((*key[:4], key[5], f"{statistics.mean(one['compression'] for one in runs):.1f}x", f"{kept:.0f}",
                     f"{statistics.mean(errors):.2f}", spread, str(len(runs)), str(runs[0]["units"])))  # fmt: skip
    print_table("MNIST", ("network", "set", "way", "layers", "tag", "rate", "kept", "error %", "of seeds", "seeds",
                          "live units"), rows)  # fmt: skip


def main() -> None:
    """Parse, run, print."""
    shared = Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=tuple(RATES), default="lenet300")
    parser.add_argument("--way", choices=("dense", "gmp", "dns"), default="dns")
    parser.add_argument("--rate", type=float, help="parameters / parameters kept (56 and 108)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distribution", choices=("paper", "global", "lamp", "erk", "uniform"))
    parser.add_argument("--epochs", type=int, nargs=2, help="dense, then the way (20 80 and 10 40)")
    parser.add_argument("--steps", type=int, help="at most so many steps in each part, to try the command")
    parser.add_argument("--lr", type=float, help="learning rate (0.1 and 0.02)")
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--stop", type=float, default=0.6)
    parser.add_argument("--gamma", type=float, default=1e-4)
    parser.add_argument("--power", type=float, default=1.0)
    parser.add_argument("--final", action="store_true", help="train on all training images, and open the test set")
    parser.add_argument("--tag", default="", help="part of the file's name, for variants that are tried")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=shared / "data" / "mnist")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dns_mnist"))
    parser.add_argument("--networks", type=Path, default=Path("runs/dns_mnist"))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--all", action="store_true", help="three seeds of each network, dense, gmp and dns")
    what.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.table:
        table(options.out)
        return
    if not (options.data / "train-images-idx3-ubyte.gz").is_file():
        print(f"dns_mnist: no MNIST at {options.data}; give --data DIR with its four .gz files")
        return
    nets = tuple(RATES) if options.all else (options.net,)
    for net in nets:
        for rate in [options.rate] if options.rate else RATES[net]:
            for seed in range(3) if options.all else (options.seed,):
                for way in ("dense", "gmp", "dns") if options.all else (options.way,):
                    chosen = {"net": net, "rate": rate, "seed": seed, "way": way}
                    chosen["epochs"] = options.epochs or EPOCHS[net]
                    chosen["lr"] = options.lr or LEARNING[net]
                    chosen["distribution"] = "" if way == "dense" else options.distribution or DISTRIBUTION[net]
                    do(argparse.Namespace(**{**vars(options), **chosen}))
    if options.all:
        table(options.out)


if __name__ == "__main__":
    main()
