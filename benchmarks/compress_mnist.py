"""Deep Compression on MNIST: networks of benchmarks.dns_mnist, their values shared and trained, files on disk.

    python -m benchmarks.compress_mnist --network runs/dns_mnist/lenet300-dns-global-56-seed0-validation.safetensors
    python -m benchmarks.compress_mnist --network ...-test.safetensors --bits 4    its test set, opened once
    python -m benchmarks.compress_mnist --network ... --bits 3,5.weight=2          other bits for a layer
    python -m benchmarks.compress_mnist --table                                    what there is, as a table

The survivors of each layer share 2^bits values, which are trained (core.tied, the class behind train.py --share-bits)
for --epochs, with a learning rate that falls to 0. Weights, biases and all go into a .y5z container; it is read again,
and the error is that of what was read. Ratios are to four bytes a parameter. A network of a validation run is trained
and measured as it was there, on the last 5,000 training images; one of a test run on the test set.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.dns_mnist import HELD_OUT, LEARNING, error, images, network
from benchmarks.table import print_table
from yolov5_prune_plugin.core.coding import container
from yolov5_prune_plugin.core.coding.bits import by_layer
from yolov5_prune_plugin.core.coding.codebook import Histogram
from yolov5_prune_plugin.core.coding.sizes import sizes
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.core.training.shared_weights import SharedWeights
from yolov5_prune_plugin.files import written_whole

LAYERS = {  # Han et al. 2015, tables 2 and 3: weights kept, bits of a value, bits of a position, share of fp32
    "lenet300": {"1.weight": "8% 4.4 3.7 2.32%", "3.weight": "9% 4.4 4.3 3.04%", "5.weight": "26% 4.3 3.2 12.70%"},
    "lenet5": {"0.weight": "66% 7.2 1.5 67.45%", "2.weight": "12% 7.2 3.9 5.28%", "5.weight": "8% 4.5 4.5 2.45%",
               "7.weight": "19% 5.2 3.7 6.13%"},
}  # fmt: skip
PUBLISHED = {"lenet300": "40x at 1.58%", "lenet5": "39x at 0.74%"}  # Han et al. 2015, table 1


def train(model: nn.Module, tied: SharedWeights, data: tuple[Tensor, Tensor], options: argparse.Namespace) -> None:
    """SGD along a cosine from --lr to 0."""
    optimizer = torch.optim.SGD(model.parameters(), options.lr, momentum=0.9, nesterov=True)
    a_turn = len(data[1]) // options.batch
    total, step = options.epochs * a_turn, 0
    tied.attach(optimizer, lambda: total)
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(options.epochs):
        order = torch.randperm(len(data[1]), generator=generator)
        for chosen in order[: a_turn * options.batch].split(options.batch):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * (1 + math.cos(math.pi * step / total)) / 2
            optimizer.zero_grad()
            functional.cross_entropy(model(data[0][chosen]), data[1][chosen]).backward()
            optimizer.step()
            step += 1
    tied.check()
    tied.detach()


def share_biases(model: nn.Module, bits: int) -> None:
    """Give all biases that are not zero one of 2^bits values."""
    biases = [p for p in model.parameters() if p.dim() == 1]
    flat = torch.cat([p.detach() for p in biases]).half()
    shared = Histogram(flat).cluster(bits, "best").weight.float()
    with torch.no_grad():
        for p, part in zip(biases, shared.split([p.numel() for p in biases])):
            p.copy_(part)


def write(model: nn.Module, file: Path) -> int:
    """Weights in sections of their own, biases in one; all in fp16."""
    state = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in state.items() if tensor.dim() > 1}
    biases = torch.cat([tensor for tensor in state.values() if tensor.dim() == 1])
    return container.write(file, {}, {**weights, "biases": biases}, {})


def read(file: Path, name: str) -> nn.Module:
    """The network that a file holds."""
    model = network(name)
    found = container.read(file).decode()
    lengths = {key: len(tensor) for key, tensor in model.state_dict().items() if tensor.dim() == 1}
    parts = dict(zip(lengths, found.pop("biases").split(list(lengths.values()))))
    model.load_state_dict({key: tensor.float() for key, tensor in {**found, **parts}.items()})
    return model


def run(options: argparse.Namespace) -> None:
    """One network, unless its result is there."""
    stem = options.network.stem
    biases = f"-biases{options.bias_bits}" if options.bias_bits else ""
    key = f"{stem}-bits{options.bits}{biases}" + (f"-{options.tag}" if options.tag else "")
    record = options.out / f"{key}.json"
    if record.is_file():
        print(f"{record}: is there", flush=True)
        return
    name, final = stem.partition("-")[0], stem.endswith("-test")
    torch.manual_seed(options.seed)
    model = network(name)
    model.load_state_dict(load_file(options.network))
    pixels, labels = images(options.data, "train")
    data = (pixels, labels) if final else (pixels[:-HELD_OUT], labels[:-HELD_OUT])
    held = images(options.data, "t10k") if final else (pixels[-HELD_OUT:], labels[-HELD_OUT:])
    options.lr = options.lr or LEARNING[name] / 10
    before = error(model, held)
    weights = {key: p for key, p in model.named_parameters() if p.dim() > 1}
    masks = {key: p.detach() != 0 for key, p in weights.items()}
    tied = SharedWeights(weights, Rule(), by_layer(options.bits.split(","), list(weights)))
    dead = {key: p.detach() == 0 for key, p in model.named_parameters() if p.dim() == 1}
    tied.prepare(masks)
    clustered = error(model, held)
    train(model, tied, data, options)
    with torch.no_grad():
        for key_of, p in model.named_parameters():
            if key_of in dead:
                p[dead[key_of]] = 0  # biases of units that nothing uses
    if options.bias_bits:
        share_biases(model, options.bias_bits)
    options.files.mkdir(parents=True, exist_ok=True)
    file = options.files / f"{key}.y5z"
    file.unlink(missing_ok=True)
    size = write(model, file)
    total = sum(p.numel() for p in model.parameters())
    counted = sizes(container.read(file))
    result: dict[str, Any] = {
        "network": name, "model": stem, "final": final, "bits": options.bits, "bias_bits": options.bias_bits,
        "epochs": options.epochs,
        "lr": options.lr, "seed": options.seed,
        "kept": sum(int(p.count_nonzero()) for p in model.parameters()), "parameters": total,
        "bytes": size, "ratio": 4 * total / size, "header": counted.header,
        "layers": [{"name": layer.name, "weights": layer.weights, "kept": layer.kept, "clusters": layer.clusters,
                    "codebook": layer.codebook, "indices": layer.values, "positions": layer.positions,
                    "bytes": layer.size} for layer in counted.layers],
        "error_sparse": before, "error_clustered": clustered, "error": error(read(file, name), held),
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    with written_whole(record) as place:
        place.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{key}: {size:,} bytes, {result['ratio']:.0f}x, {before:.2f}% -> {result['error']:.2f}%", flush=True)


def table(folder: Path) -> None:
    """The runs, then the layers of each network's smallest file."""
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    rows = [
        (one["model"], one["bits"], str(one.get("bias_bits") or "fp16"), str(one["epochs"]), f"{one['lr']:g}",
         f"{one['kept']:,}", f"{one['bytes']:,}", f"{one['ratio']:.0f}x",
         *(f"{one[key]:.2f}" for key in ("error_sparse", "error_clustered", "error")), PUBLISHED[one["network"]])
        for one in found
    ]  # fmt: skip
    print_table("MNIST, from the files", ("network", "bits", "biases", "epochs", "lr", "kept", "bytes", "smaller",
                "sparse, %", "clustered, %", "trained, %", "Han et al."), rows)  # fmt: skip
    for name in PUBLISHED:
        some = [one for one in found if one["network"] == name and one["final"]]
        if some:
            least = min(some, key=lambda one: one["bytes"])
            rows = []
            for one in least["layers"]:
                kept, theirs = one["kept"] or 1, LAYERS[name].get(one["name"], "- - - -").split()
                ours = (f"{kept / one['weights']:.2%}", f"{8 * one['indices'] / kept:.1f}",
                        f"{8 * one['positions'] / kept:.1f}", f"{one['bytes'] / one['weights'] / 4:.2%}")  # fmt: skip
                pairs = [column for pair in zip(ours, theirs) for column in pair]
                rows.append((one["name"], f"{one['weights']:,}", f"{one['bytes']:,}", *pairs))
            title = (
                f"{least['model']}, {least['bits']} bits: {least['bytes']:,} bytes, {least['header']} of them header"
            )
            print_table(title, ("layer", "weights", "bytes", "kept", "Han", "bits a value", "Han", "bits a position",
                        "Han", "of fp32", "Han"), rows)  # fmt: skip


def main() -> None:
    """Parse, run, print."""
    shared = Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, nargs="+", default=[])
    parser.add_argument("--bits", nargs="+", default=["4"], help="N, or N,LAYER=N for some layers; of each network")
    parser.add_argument("--bias-bits", type=int, default=0, help="biases of all layers share 2^N values (0: fp16)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, help="learning rate (a tenth of what dns_mnist has)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tag", default="", help="part of the record's name, for variants that are tried")
    parser.add_argument("--data", type=Path, default=shared / "data" / "mnist")
    parser.add_argument("--files", type=Path, default=Path("runs/compress_mnist"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compress_mnist"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.network and not (options.data / "train-images-idx3-ubyte.gz").is_file():
        print(f"compress_mnist: no MNIST at {options.data}; give --data DIR with its four .gz files")
        return
    for one in options.network:
        for bits in options.bits:
            run(argparse.Namespace(**{**vars(options), "network": one, "bits": bits}))
    if options.table or not options.network:
        table(options.out)


if __name__ == "__main__":
    main()
