"""What a layer is said to lose, and what becomes of it: amounts chosen by several losses, on held-out training images.

    python -m benchmarks.chooser [--set bccd|coco] [--shared DIR] [--grain 4x1] [--left 0.5] [--images 48] [--held 41]

Prints the distance of the outputs to the dense model's on every fifth training image, when obs prunes to a share of the
multiplications without tuning, calibrated on some of the others. Nothing of the validation split is looked at.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from benchmarks.accuracy import coco
from benchmarks.detect import cut_off
from benchmarks.table import print_table
from yolov5_prune_plugin import api
from yolov5_prune_plugin.core.outputs.objective import distance
from yolov5_prune_plugin.core.pruning.chooser import Table
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.multiplications import uses_at
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import find_targets
from yolov5_prune_plugin.core.pruning.sparsity import measure
from yolov5_prune_plugin.core.pruning.target import amounts_for
from yolov5_prune_plugin.methods.oneshot.obs import Obs
from yolov5_prune_plugin.plugin_api.methods import Method
from yolov5_prune_plugin.plugin_api.run import Calibration, Run

EXPONENTS = {"curvature alone": 1.0, "mean, .7 of curvature": 0.7, "geometric mean": 0.5, "mean, .3 of curvature": 0.3,
             "made up for": 0.0}  # fmt: skip


def main() -> None:
    """Choose, prune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared")))
    parser.add_argument("--set", choices=("bccd", "coco"), default="bccd")
    parser.add_argument("--grain", default="4x1")
    parser.add_argument("--left", type=float, default=0.5, help="share of the multiplications")
    parser.add_argument("--images", type=int, default=48, help="to calibrate with")
    parser.add_argument("--held", type=int, default=41, help="images held out, at most")
    options = parser.parse_args()
    if not (options.shared / "weights" / "yolov5n.pt").is_file():
        print(f"chooser: no official weights at {options.shared}; give --shared DIR with weights/ and data/")
        return
    shared, size = options.shared.resolve(), 320 if options.set == "bccd" else 640
    api.use()
    model = api.load(shared / "weights" / ("bccd-yolov5n.pt" if options.set == "bccd" else "yolov5n.pt"))
    model.fuse()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        _, data = coco(shared, Path(folder) / "data")
        content = yaml.safe_load(cut_off(data.with_name("bccd.yaml") if options.set == "bccd" else data).read_text())
        files = [Path(content[part]).read_text().split() for part in ("train", "val")]
        random.Random(0).shuffle(files[0])
        train = [image(file, size) for file in files[0][: options.images]]
        held = [image(file, size) for file in files[1][: options.held]]
    grain = Granularity.parse(options.grain)
    selection, uses = find_targets(model, grain), uses_at(model, size, size)
    obs, request = Obs(prune_tune=0), Request(0.0, granularity=grain)
    run = Run("python", "use", argparse.Namespace(weights=[]), argparse.Namespace(), False)
    run.calibration = lambda *_: Calibration([""] * len(train), lambda _: iter(train))
    obs.calibrate(run, model, selection.targets)
    both = obs.tables(selection.targets, request, uses)
    alone = Method.tables(obs, selection.targets, request, uses)
    plans = {"equal shares": {target.name: 1 - options.left for target in selection.targets}}
    for name, exponent in EXPONENTS.items():
        mixed = {layer: between(alone[layer], table, exponent) for layer, table in both.items()}
        plans[name] = amounts_for(options.left, mixed, model, selection, uses)
    with torch.no_grad():
        dense = [model(x) for x in held]
    rows = []
    for name, amounts in plans.items():
        pruned, kept = {}, copy.deepcopy(model.state_dict())
        with torch.no_grad():
            obs.prune(selection.targets, Request(0.0, granularity=grain, amounts=amounts))
            pruned = [float(distance(before, model(x))) for before, x in zip(dense, held)]
        zeros = measure(model, selection, uses)
        rows.append((name, f"{zeros.conv_sparsity:.3f}", f"{zeros.multiplication_sparsity:.3f}",
                     f"{sum(pruned) / len(pruned):.4f}"))  # fmt: skip
        print("|", *rows[-1], flush=True)  # progress
        model.load_state_dict(kept)
    print_table(f"{options.set}, {grain}, calibrated on {len(train)} training images, {len(held)} others held out",
                ("losses", "zeros / weights", "zeros / multiplications", "distance"), rows)  # fmt: skip


def between(alone: Table, mean: Table, exponent: float) -> Table:
    """Losses by curvature to some power times those made up for: these come out of the geometric mean of both."""
    losses = []
    for one, middle in zip(alone.losses, mean.losses):
        other = middle**2 / one if one else 0.0
        losses.append(one**exponent * other ** (1 - exponent) if one and other else 0.0)
    return Table(mean.amounts, tuple(losses), mean.costs)


def image(file: str, size: int) -> Tensor:
    """[1, 3, H, W], the longer side of that size, both multiples of 32."""
    x = next(iter(api._Batches([file], nn.Conv2d(3, 1, 1)).calibration))
    scale = size / max(x.shape[2:])
    sides = [max(32, round(side * scale / 32) * 32) for side in x.shape[2:]]
    return F.interpolate(x, sides, mode="bilinear", antialias=True).clamp(0, 1)


if __name__ == "__main__":
    main()
