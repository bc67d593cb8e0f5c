"""Peak memory of one model in one runtime, in a process of its own; arguments: runtime model size batch repo."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path

import torch


def held(what: str) -> int:
    """Read the bytes of memory that this process holds now (``VmRSS``) or held at most (``VmHWM``). Linux only.

    ``getrusage`` won't do: what it calls the peak begins with that of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def main(arguments: list[str]) -> None:
    """Print what opening the model and three passes add at most to what the process held with the runtime imported."""
    runtime, model, size, batch, repo = arguments
    from yolov5_prune_plugin.commands.bench.runtimes import NEEDS, open_runtime
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream

    for name in NEEDS.get(runtime, ())[1:]:
        importlib.import_module(name)
    if runtime not in NEEDS:  # the model's classes are upstream's
        importlib.import_module(f"{find_upstream(Path(repo) if repo else None).package}models.yolo")
    if runtime == "sparse":
        importlib.import_module("llvmlite.binding")
    x = torch.rand(int(batch), 3, int(size), int(size))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = held("VmRSS")
    module = torch.nn.Identity() if runtime in NEEDS else torch.load(model, weights_only=False)
    run = open_runtime(runtime, module, Path(model), torch.get_num_threads())
    for _ in range(3):
        run(x)
    print("PEAK", max(0, held("VmHWM") - before))


if __name__ == "__main__":
    main(sys.argv[1:])
