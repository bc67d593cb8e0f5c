"""Peak memory of one model in one runtime, in a process of its own; arguments: runtime weights onnx size batch repo."""

from __future__ import annotations

import contextlib
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
    """Print what three passes, and but for PyTorch loading too, add at most to what the process held."""
    runtime, weights, onnx, size, batch, repo = arguments
    from yolov5_prune_plugin.commands.bench.runtimes import open_runtime
    from yolov5_prune_plugin.yolov5.checkout.upstream import as_used, find_upstream

    model = torch.nn.Identity()
    if runtime in ("pytorch", "sparse"):
        # what unpickling and folding takes is not what using it takes: it is done once before
        model = as_used(find_upstream(Path(repo) if repo else None).load(Path(weights))[1])
    x = torch.rand(int(batch), 3, int(size), int(size))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = held("VmRSS")
    run = open_runtime(runtime, model, Path(onnx), torch.get_num_threads())
    for _ in range(3):
        run(x)
    print("PEAK", max(0, held("VmHWM") - before))


if __name__ == "__main__":
    main(sys.argv[1:])
