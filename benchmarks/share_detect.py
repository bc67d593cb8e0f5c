"""Deep Compression of sparse detectors: shared values as k-means leaves them, and trained; bytes beside mAP.

    python -m benchmarks.share_detect --model runs/dns_detect/bccd-dns-lamp-0.8-e60-seed0/train/weights/last.pt --bits 4
    python -m benchmarks.share_detect --all        the models of benchmarks.dns_detect at 0.7, 0.8, 0.9; 3, 4, 5 bits
    python -m benchmarks.share_detect --table      what there is, as a table
    python -m benchmarks.share_detect --png FILE   and as a curve

A run validates the sparse model, compresses it, validates the file, trains its values by train.py --share-bits, and
compresses and validates what comes of that; each .y5z file is measured as it lies on the disk. BCCD at 320; a JSON file
for each goes to --results, and a run whose file is there is passed over.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.detect import SETS, add_arguments, compress, device_name, launch, lay_out, measure, parse
from benchmarks.table import print_table
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.reporting.figure import canvas

NAMES = tuple(f"bccd-dns-lamp-{sparsity}-e60-seed0" for sparsity in ("0.7", "0.8", "0.9"))
BITS = (3, 4, 5)
EPOCHS = 15  # for the values


def run(name: str, model: Path, bits: int, options: argparse.Namespace) -> None:
    """One model at one number of bits, unless its result is there."""
    key = f"{name}-bits{bits}-e{options.epochs}"
    record = options.results.resolve() / f"{key}.json"
    if record.is_file():
        print(f"{key}: is there", flush=True)
        return
    folder, began = options.out.resolve() / key, time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    data, log = lay_out(options)[1], folder / "log.txt"
    sparse = measure(model, data, folder, options)
    plain, trained = folder / "plain.y5z", folder / "trained.y5z"
    sizes = {"plain": compress(model, plain, log, "--bits", bits)}
    found = {"plain": measure(plain, data, folder, options)}
    launch("yolov5.train", "--weights", model, "--data", data, "--imgsz", options.imgsz, "--batch-size",
           SETS["bccd"]["batch"], "--epochs", options.epochs, "--seed", options.seed, "--workers", options.workers,
           "--device", options.device, "--cache", "--noplots", "--project", folder, "--name", "train", "--exist-ok",
           "--share-bits", bits, *options.rest, log=log)  # fmt: skip
    last = folder / "train" / "weights" / "last.pt"
    sizes["trained"] = compress(last, trained, log, "--bits", bits)
    found["trained"] = measure(trained, data, folder, options)
    result: dict[str, Any] = {
        "model": name, "sparsity": sparse["conv_sparsity"], "bits": bits, "epochs": options.epochs,
        "seed": options.seed, "rest": options.rest, "device": device_name(options.device),
        "seconds": round(time.perf_counter() - began), "fp16_bytes": last.stat().st_size,
        "fp32_bytes": fp32_bytes(trained), "bytes": sizes, "sparse": sparse, **found,
    }  # fmt: skip
    record.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(record) as place:
        place.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{key}: {sizes['trained']:,} bytes, {sparse['map']:.3f} -> {found['plain']['map']:.3f} as clustered,"
          f" {found['trained']['map']:.3f} trained", flush=True)  # fmt: skip


def fp32_bytes(file: Path) -> int:
    """Four bytes for each number in the file's model."""
    from yolov5_prune_plugin.core.coding import container
    from yolov5_prune_plugin.core.coding.sizes import sizes

    return sizes(container.read(file)).fp32


def records(folder: Path) -> list[dict[str, Any]]:
    """All there are, the least sparse first."""
    found = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return sorted(found, key=lambda one: (one["sparsity"], one["bits"], one["epochs"]))


def table(folder: Path) -> None:
    """One row per model and number of bits."""
    rows = []
    for one in records(folder):
        size = one["bytes"]["trained"]
        rows.append((f"{one['sparsity']:.2f}", str(one["bits"]), str(one["epochs"]), f"{size:,}",
                     f"{one['fp16_bytes'] / size:.1f}x", f"{one['fp32_bytes'] / size:.1f}x",
                     *(f"{one[what]['map']:.3f}" for what in ("sparse", "plain", "trained"))))  # fmt: skip
    print_table("yolov5n on BCCD, from the files", ("zeros", "bits", "epochs", "bytes", "than fp16 .pt", "than fp32",
                "sparse", "shared", "values trained"), rows)  # fmt: skip


def curve(folder: Path, dense: float, file: Path) -> None:
    """mAP against bytes, one line a model."""
    figure = canvas(7.0, 4.0)
    axes = figure.add_subplot()
    found = records(folder)
    for number, sparsity in enumerate(sorted({round(one["sparsity"], 2) for one in found})):
        some = [one for one in found if round(one["sparsity"], 2) == sparsity]
        for what, style, how in (("trained", "o-", "values trained"), ("plain", "x:", "as clustered")):
            axes.plot([one["bytes"][what] / 1000 for one in some], [one[what]["map"] for one in some], style,
                      color=f"C{number}",
                      label=f"{sparsity:.0%} zeros, {how}")  # fmt: skip
    axes.axhline(dense, color="#888", linestyle="--", label="dense, trained as long")
    axes.set(xlabel="file, kB", ylabel="mAP50-95", title=f"yolov5n on BCCD at {', '.join(map(str, BITS))} bits a value")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with written_whole(file) as place:
        figure.savefig(place, format="png", dpi=110)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a sparse checkpoint")
    parser.add_argument("--models", type=Path, default=Path("runs/dns_detect"), help="with --all: --out of dns_detect")
    parser.add_argument("--bits", type=int, default=4)
    add_arguments(parser, "share_detect")
    parser.add_argument("--dense", type=float, default=0.608, help="mAP50-95 of the dense control, for the curve")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--png", type=Path)
    parser.set_defaults(epochs=EPOCHS)
    options = parse(parser)
    plan = [(options.model.parents[2].name, options.model, options.bits)] if options.model else []
    if options.all:
        plan += [
            (name, options.models / name / "train" / "weights" / "last.pt", bits) for name in NAMES for bits in BITS
        ]
    for name, model, bits in plan:
        if not model.is_file():
            print(f"share_detect: there is no {model}; python -m benchmarks.dns_detect trains it")
            continue
        run(name, model.resolve(), bits, options)
    if options.all or options.table:
        table(options.results)
    if options.png:
        curve(options.results, options.dense, options.png)


if __name__ == "__main__":
    main()
