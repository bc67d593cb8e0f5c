"""Accuracy against FLOPs for channels removed from yolov5n, without any training.

    python -m benchmarks.slim_curve --repo CHECKOUT --data coco.yaml --weights yolov5n.pt [--targets 0.9 0.8 ...]

--data names a YAML whose train split calibrates (coco128) and whose val split judges (128 images of val2017). For each
target: l2, shared globally or by sensitivity, and by sensitivity Taylor scores (our default) and second-order ones,
each before and after repair; torch-pruning's own recipe for YOLOv5 (MagnitudePruner, l2, the same share everywhere, the
head's last layers left alone), cut until its FLOPs, by our count, are at most the target too; and val.py
--prune-granularity channel, which zeroes 1 - sqrt(target) of the filters of each layer but the head's: were they gone,
a layer would cost the target. Points are kept in --out, and measured once.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.table import print_table
from yolov5_prune_plugin.commands.validate import validate
from yolov5_prune_plugin.core.channels.cost import Cost
from yolov5_prune_plugin.core.channels.slim import SlimConfig, SlimPlan, slim
from yolov5_prune_plugin.core.outputs.images import Images
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.reporting.figure import canvas
from yolov5_prune_plugin.yolov5.checkout.upstream import as_used, find_upstream
from yolov5_prune_plugin.yolov5.checkpoints.slim_file import save_slim

ZEROED = "zeroed channels"
CHOICES = {"global": ("l2", "global"), "sensitivity": ("l2", "sensitivity"), "taylor": ("taylor", "sensitivity"),
           "second": ("second", "sensitivity")}  # fmt: skip
WAYS = (ZEROED, "torch-pruning", *(f"{choice}, {state}" for choice in CHOICES for state in ("raw", "repaired")))


def main() -> None:
    """Measure what is not in --out yet, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.5])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/slim_curve.json"))
    parser.add_argument("--png", type=Path, help="a plot of the points in --out")
    options = parser.parse_args()
    upstream = find_upstream(options.repo)
    checkpoint, dense = upstream.load(options.weights)
    sized, example = torch.rand(1, 3, options.imgsz, options.imgsz), torch.rand(1, 3, 64, 64)
    drawn = upstream.calibration("", dense, options.data, options.imgsz, 64, "train", 0)
    images = Images(drawn.batches(1))
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    head = f"model.{len(dense.model) - 1}.*"  # type: ignore[arg-type]
    whole = Cost(dense, [], sized).of({})["flops"]
    plan: dict[str, SlimPlan] = {}
    for target in options.targets:
        for way in options.ways:
            key = f"{way} {target:g} {options.imgsz}"
            if key in found:
                continue
            if way == ZEROED:
                flags = ("--prune", f"{1 - target**0.5:.4f}", "--prune-granularity", "channel", "--prune-exclude", head)
                figure, value = validate(upstream, "", options.weights, options.data, options.imgsz, 8, flags)
                keep(found, key, {"way": way, "target": target, "flops": 1.0, figure: value}, options.out)
                continue
            model = copy.deepcopy(dense)
            if way == "torch-pruning":
                model, layers = theirs(dense, target, example, sized, whole), {}
            else:
                choice, repaired = way.split(", ")
                importance, allocation = CHOICES[choice]
                wanted = SlimConfig("flops", target, importance, allocation, repair=repaired == "repaired")
                with torch.no_grad():
                    done = slim(model, wanted, example, sized, images, runnable=as_used, plan=plan.get(choice))
                layers, plan[choice] = done.layers, done.plan
            cost = Cost(model.eval(), [], sized).of({})
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "s.pt"
                save_slim(file, checkpoint, model, example, {}, layers)
                figure, value = validate(upstream, "", file, options.data, options.imgsz, 8)
            point = {"way": way, "target": target, "flops": cost["flops"] / whole, figure: value}
            keep(found, key, point, options.out)
    print_table(
        f"{options.weights.name} at {options.imgsz}: mAP50-95 without training (share of the FLOPs)",
        ["target", *WAYS],
        [[f"{target:g}", *(shown(found.get(f"{way} {target:g} {options.imgsz}")) for way in WAYS)]
         for target in options.targets],
    )  # fmt: skip
    if options.png:
        plot(found, options.imgsz, options.png)


def plot(found: dict[str, Any], size: int, file: Path) -> None:
    """Each way's points, by the FLOPs that it really has; dashed before repair."""
    figure = canvas(7.0, 4.0)
    axes, colors = figure.subplots(), {}
    for way in WAYS:
        ours = [point for key, point in found.items() if point["way"] == way and key.endswith(f" {size}")]
        if not ours:
            continue
        points = sorted((point["target"] if way == ZEROED else point["flops"], point["map"]) for point in ours)
        choice, _, state = way.partition(", ")
        (line,) = axes.plot(*zip(*points), "--" if state == "raw" else "-", marker=".", label=way,
                            color=colors.get(choice))  # fmt: skip
        colors[choice] = line.get_color()
    axes.set_xlabel("share of the FLOPs that is left")
    axes.set_ylabel("mAP50-95, nothing trained")
    axes.set_ylim(0)
    axes.invert_xaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with written_whole(file) as place:
        figure.savefig(place, dpi=120, format="png")


def keep(found: dict[str, Any], key: str, point: dict[str, Any], file: Path) -> None:
    """A point, on disk at once."""
    found[key] = point
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as place:
        place.write_text(json.dumps(found, indent=2) + "\n")
    print(key, point, flush=True)


def shown(point: Any) -> str:
    """mAP50-95, and the share of FLOPs that it has."""
    return f"{point['map']:.3f} ({point['flops']:.2f})" if point else "-"


def theirs(dense: nn.Module, target: float, example: torch.Tensor, sized: torch.Tensor, whole: float) -> nn.Module:
    """torch-pruning's recipe at the mildest share that keeps the target, to a hundredth."""
    import torch_pruning as tp

    for share in range(1, 95):
        model = copy.deepcopy(dense).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        last = list(model.model[-1].m)  # type: ignore[union-attr, index]
        pruner = tp.pruner.MagnitudePruner(
            model, example, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=share / 100,
            ignored_layers=last)  # fmt: skip
        pruner.step()
        if Cost(model.eval(), [], sized).of({})["flops"] / whole <= target:
            return model
    raise SystemExit(f"torch-pruning does not reach {target}")


if __name__ == "__main__":
    main()
