"""Deep Compression without any training: yolov5n on COCO, pruned by obs, shared by compress, bytes beside mAP.

    python -m benchmarks.compress_coco [--tune 200]

For each sparsity the official weights are pruned by ``val.py --prune S --prune-method obs`` of the PyPI package, on
coco128 for calibration; then ``compress`` writes them with each choice of bits, and ``val.py`` reads the files. The
images are the first 128 of COCO val2017 at 640. Ratios are to the fp16 checkpoint that is compressed. ``auto`` chooses
between k-means and evenly spaced values, as ``compress`` does by default, or has k-means alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.detect import add_arguments, compress, launch, lay_out, measure, parse
from benchmarks.table import print_table

SPARSITIES = (0.3, 0.5)
KMEANS, EVEN = ("--codebook", "k-means"), ("--codebook", "even")
CHOICES: dict[str, tuple[str, ...]] = {
    "5": ("--bits", "5"), "6": ("--bits", "6"), "8": ("--bits", "8"), "8, even": ("--bits", "8", *EVEN),
    **{f"auto, {ratio}{name}": ("--bits", "auto", "--size", ratio, *flags) for ratio in ("4x", "5x", "6x")
       for name, flags in ((", k-means", KMEANS), ("", ()))},
}  # fmt: skip


def pruned(weights: Path, data: Path, sparsity: float, folder: Path, options: argparse.Namespace) -> Path:
    """The checkpoint that val.py --prune-save leaves."""
    file = folder / f"obs-{sparsity}.pt"
    launch("yolov5.val", "--weights", weights, "--data", data, "--imgsz", options.imgsz, "--batch-size", 8, "--device",
           options.device, "--workers", options.workers, "--project", folder, "--name", "prune", "--exist-ok",
           "--prune", sparsity, "--prune-method", "obs", "--prune-tune", options.tune, "--prune-save", file,
           log=folder / "log.txt")  # fmt: skip
    return file


def main() -> None:
    """Prune, compress, validate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "compress_coco")
    parser.add_argument("--tune", type=int, default=0, help="--prune-tune of obs (0)")
    parser.set_defaults(set="coco")
    options = parse(parser)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options.out = folder
        weights, data = lay_out(options)
        for sparsity in SPARSITIES:
            model = pruned(weights, data, sparsity, folder, options)
            before = measure(model, data, folder, options)
            for name, flags in CHOICES.items():
                file = folder / f"{sparsity}-{name.replace(', ', '-')}.y5z"
                size = compress(model, file, folder / "log.txt", *flags)
                after = measure(file, data, folder, options)
                rows.append((f"{before['conv_sparsity']:.2f}", name, f"{size:,}",
                             f"{model.stat().st_size / size:.1f}x", f"{before['map']:.3f}", f"{after['map']:.3f}",
                             f"{100 * (after['map'] - before['map']):+.1f}"))  # fmt: skip
                print("|", *rows[-1], flush=True)  # progress
    print_table("yolov5n on COCO, nothing trained", ("zeros", "bits", "bytes", "than fp16 .pt", "pruned", "compressed",
                "points"), rows)  # fmt: skip


if __name__ == "__main__":
    main()
