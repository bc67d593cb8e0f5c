"""What the activation costs at start-up when no flag of ours is given: val.py patched beside val.py as it is.

    python -m benchmarks.startup [--checkout DIR] [--repeat 15]

First as whole processes, which both stop at the same wrong argument, right after parsing; their CPU time varies by more
than the difference. Then inside one process: what the two lines do, and what modules that a shim changes cost more to
import (they are compiled each time). Without --checkout, a tree is made from the PyPI package, and what its release
lacks today (pkg_resources) is given to the unpatched script by a module of one line. Target: under 50 ms.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import print_table
from tests.upstream.clone import clone_like


def main() -> None:
    """Time both in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, help="a YOLOv5 clone that runs as it is")
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.checkout:
            shutil.copytree(options.checkout, folder / "plain", ignore=shutil.ignore_patterns(".git", "runs"))
        else:
            package = importlib.util.find_spec("yolov5").submodule_search_locations[0]
            clone_like(Path(package), folder / "plain")
        shutil.copytree(folder / "plain", folder / "patched")
        subprocess.run([sys.executable, "-m", "yolov5_prune_plugin", "patch", folder / "patched"], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        (folder / "stub").mkdir()
        (folder / "stub" / "pkg_resources.py").write_text("from packaging.version import parse as parse_version\n")
        times: dict[str, list[float]] = {"plain": [], "patched": []}
        for turn in range(options.repeat + 1):
            for kind, values in times.items():
                seconds = start(folder / kind / "val.py", folder / "stub" if kind == "plain" else None)
                if turn:  # the first writes .pyc files
                    values.append(seconds)
        parts = inside(folder / "plain", options.repeat)
    plain, patched = (statistics.median(times[kind]) for kind in ("plain", "patched"))
    differences = [b - a for a, b in zip(times["plain"], times["patched"])]
    print_table(
        f"Start of val.py up to its parsed arguments, {options.repeat} pairs, medians",
        ("", "CPU seconds"),
        [("val.py as it is", f"{plain:.3f}"), ("val.py patched", f"{patched:.3f}"),
         ("difference, median of the pairs", f"{statistics.median(differences):.3f}")],
    )  # fmt: skip
    rows = [(part, f"{ms:.1f}") for part, ms in parts.items()]
    print_table("Inside one process, medians", ("", "ms"), [*rows, ("together", f"{sum(parts.values()):.1f}")])


INSIDE = """
import json, sys, time
import numpy, PIL.ImageFont, torch, yaml  # upstream imports them in any case
sys.path.insert(0, sys.argv[1])
script = sys.argv[1] + "/val.py"
start = time.perf_counter()
import yolov5_prune_plugin.yolov5 as prune
prune.prepare(script)
prepared = time.perf_counter()
from importlib.machinery import SourceFileLoader
from yolov5_prune_plugin.yolov5.compat import apply as compat, source_rewrite
more = 0
for file, places in compat._finder.places.items():
    for loader, sign in ((source_rewrite._RewritingLoader("m", str(file), places), 1),
                         (SourceFileLoader("m", str(file)), -1)):
        before = time.perf_counter()
        loader.get_code("m")
        more += sign * (time.perf_counter() - before)
import argparse
namespace = {"__name__": "__main__", "__file__": script, "argparse": argparse}
before = time.perf_counter()
prune.activate(namespace)
activated = time.perf_counter() - before
sys.argv = ["val.py"]
plain, ours = argparse.ArgumentParser(), namespace["argparse"].ArgumentParser()
before = time.perf_counter()
ours.parse_args()
parsed = time.perf_counter() - before
print(json.dumps({"shims found and registered": prepared - start, "changed modules compiled": more,
                  "activation line": activated, "parsing": parsed}))
"""


def inside(folder: Path, repeat: int) -> dict[str, float]:
    """Medians in ms of the parts, each run in a process of its own."""
    runs = []
    for _ in range(repeat):
        done = subprocess.run([sys.executable, "-c", INSIDE, folder], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {part: statistics.median(run[part] for run in runs) * 1000 for part in runs[0]}


def start(script: Path, extra: Path | None) -> float:
    """Seconds until the script refuses ``--imgsz x``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(extra or ""), os.getcwd()]))}
    started = cpu_seconds()
    done = subprocess.run([sys.executable, script, "--imgsz", "x"], env=environment, capture_output=True, text=True)
    seconds = cpu_seconds() - started
    assert "argument --imgsz" in done.stderr, done.stderr[-2000:]
    return seconds


def cpu_seconds() -> float:
    """User and system time of the processes waited for so far: wall time varies more than what is measured here."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
