"""What the activation costs at start-up when no flag of ours is given: val.py patched beside val.py as it is.

    python -m benchmarks.startup [--checkout DIR] [--repeat 15]

Both stop at the same wrong argument, right after parsing. Without --checkout, a tree is made from the PyPI package, and
what its release lacks today (pkg_resources) is given to the unpatched script by a three-line module.
Target: under 50 ms.
"""

from __future__ import annotations

import argparse
import importlib.util
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
    plain, patched = (statistics.median(times[kind]) for kind in ("plain", "patched"))
    differences = [b - a for a, b in zip(times["plain"], times["patched"])]
    print_table(
        f"Start of val.py up to its parsed arguments, {options.repeat} pairs, medians",
        ("", "CPU seconds"),
        [("val.py as it is", f"{plain:.3f}"), ("val.py patched", f"{patched:.3f}"),
         ("difference, median of the pairs", f"{statistics.median(differences):.3f}")],
    )  # fmt: skip


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
