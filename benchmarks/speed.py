"""Pruning a freshly built yolov5x: ours beside upstream's ``prune`` and torch's ``global_unstructured``, in one run.

    python -m benchmarks.speed [--model yolov5x] [--repeat 3]

Each contender has a process of its own, so that its peak memory is its own; they take turns, and medians are compared.
Targets: uniform at most 0.5 times upstream's time; global at most 0.5 times torch's, with at most 1.5 times the
weights' bytes of extra memory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.table import print_table

SPARSITY = 0.3
CONTENDERS = ("upstream prune()", "ours, uniform", "torch global_unstructured", "ours, global")


def main() -> None:
    """Run all contenders in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5x", help="yolov5n, s, m, l or x (default)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.model)))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(options.repeat):
        for name in CONTENDERS:
            command = [sys.executable, "-m", "benchmarks.speed", "--model", options.model, "--only", name]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[name].append(json.loads(printed.splitlines()[-1]))
    rows = []
    for index, name in enumerate(CONTENDERS):
        seconds, memory = (statistics.median(r[key] for r in results[name]) for key in ("seconds", "memory"))
        reference = statistics.median(r["seconds"] for r in results[CONTENDERS[index // 2 * 2]])
        rows.append((name, f"{seconds:.2f}", f"{seconds / reference:.2f}", f"{memory:.2f}"))
    weights = results[CONTENDERS[0]][0]["weights"]
    print_table(
        f"{options.model}, {weights / 1e6:.1f} M conv weights, sparsity {SPARSITY}, median of {options.repeat}",
        ("", "seconds", "ratio of time", "extra memory / bytes of weights"),
        rows,
    )


def measure(contender: str, model_name: str) -> dict[str, float]:
    """Prune once in this process: seconds, and peak extra memory as a multiple of the conv weights' bytes."""
    import torch
    from torch import nn
    from torch.nn.utils import prune as torch_prune

    from yolov5_prune_plugin.core.pruning.granularity import Granularity
    from yolov5_prune_plugin.core.pruning.importance import magnitude
    from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
    from yolov5_prune_plugin.core.pruning.parameters import find_targets
    from yolov5_prune_plugin.yolov5.compat.apply import apply

    root = Path(next(iter(importlib.util.find_spec("yolov5").submodule_search_locations)))
    apply(root)
    with contextlib.redirect_stdout(io.StringIO()):
        from yolov5.models.yolo import Model
        from yolov5.utils.torch_utils import prune as upstream_prune

        torch.manual_seed(0)
        model = Model(root / "models" / f"{model_name}.yaml")
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    weights = sum(conv.weight.numel() for conv in convs)
    before = resident_now()
    started = time.perf_counter()
    if contender == "upstream prune()":
        upstream_prune(model, SPARSITY)
    elif contender == "torch global_unstructured":
        pairs = [(conv, "weight") for conv in convs]
        torch_prune.global_unstructured(pairs, pruning_method=torch_prune.L1Unstructured, amount=SPARSITY)
        for conv in convs:
            torch_prune.remove(conv, "weight")
    else:
        targets = find_targets(model, Granularity("weight")).targets
        request = Request(SPARSITY, contender.split()[-1])
        prune_by_scores(targets, lambda target, _: magnitude(target.weight), request)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    zeros = sum(int((conv.weight == 0).sum()) for conv in convs)
    assert abs(zeros / weights - SPARSITY) < 1e-4, zeros / weights
    return {"seconds": seconds, "memory": max(0, peak - before) / (4 * weights), "weights": weights}


def resident_now() -> int:
    """Bytes resident now (Linux); the peak so far must not be above it for the difference to mean something."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
