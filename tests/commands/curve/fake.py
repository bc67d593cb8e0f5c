"""Stands for ``-m yolov5_prune_plugin run``: writes at once what a val.py with --prune would leave; $FAKE sets traps.

Each file in the folder $FAKE is one trap, named WHAT-LABEL with the label as in ``magnitude-global-0.3``: kill (by a
signal, once), always-kill, exit2, crash (exit 1), silent (no report), nms (a report that says it failed), nan, wait.
Each start is noted in $FAKE/started.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def value(flag: str, otherwise: str = "") -> str:
    """What stands after a flag on our command line."""
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else otherwise


def main() -> None:
    """Do it."""
    target = value("--prune-target")
    amount = round(1 - float(target.partition("=")[2]), 6) if target else float(value("--prune"))
    method, how = value("--prune-method", "dense"), "flops" if target else value("--prune-distribution")
    size = value("--img")
    label = "-".join(filter(None, (method, how, f"{amount:g}" if amount else "", size)))
    traps = Path(os.environ["FAKE"])
    with open(traps / "started", "a", encoding="utf-8") as notes:
        notes.write(f"{label} {' '.join(sys.argv[1:])}\n")

    def trapped(what: str) -> bool:
        return (traps / f"{what}-{label}").exists()

    print(f"measuring {label}", flush=True)
    if trapped("kill"):
        (traps / f"kill-{label}").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if trapped("always-kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if trapped("exit2"):
        print("val.py: error: --imgsz: that is no size", file=sys.stderr)
        sys.exit(2)
    if trapped("crash"):
        raise RuntimeError("out of memory")
    while trapped("wait"):
        time.sleep(0.02)
    if trapped("silent"):
        return
    drop = {"dense": 0.0, "magnitude": 1.0, "random": 1.5, "obs": 0.2}[method] * (0.5 if "global" in label else 1.0)
    map50 = round(0.8 - drop * amount / 2, 6)
    dense = 1_000_000 * int(size or 640) ** 2 // 640**2
    report = {"conv_sparsity": amount, "total_sparsity": amount * 0.99, "precision": 0.9, "recall": 0.6, "map50": map50,
              "map": float("nan") if trapped("nan") else map50 / 2, "multiplications": dense,
              "zero_multiplications": round(amount * dense)}  # fmt: skip
    if trapped("nms"):
        report["failed"] = "NMS ran out of time even with batches of 1"
    folder = Path(value("--project"), value("--name"), "prune")
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    kept = 10_000 - round(10_000 * amount)
    with open(value("--prune-save"), "xb") as model:  # as the real one, it refuses a file that is there
        model.write(random.Random(0).randbytes(kept) + bytes(10_000 - kept))
    sys.exit(1 if trapped("nms") else 0)


if __name__ == "__main__":
    main()
