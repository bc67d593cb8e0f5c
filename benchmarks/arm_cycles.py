"""What LLVM's model of a 64-bit ARM processor says of the kernels' inner loops: cycles, not times.

    python -m benchmarks.arm_cycles [--cpus cortex-a53 cortex-a72]

Needs llvm-mca (Debian: the package llvm). The model has no caches: all loads take what the first level takes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys

from benchmarks.table import print_table
from yolov5_prune_plugin.core.library import targets
from yolov5_prune_plugin.core.runtime.native import assembly

ITERATIONS = 200


def main() -> None:
    """Print a table for each processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", nargs="+", default=["cortex-a53", "cortex-a72"], help="as LLVM names them")
    options = parser.parse_args()
    if not shutil.which("llvm-mca"):
        sys.exit("benchmarks.arm_cycles: needs llvm-mca, which Debian has in the package llvm")
    rows = []
    for cpu in options.cpus:
        (target,) = targets.targets_of(targets.machine_of("aarch64-linux", cpu))
        text = assembly(target)
        for block, sizes in targets.Shapes(target).tiles.items():
            loop = inner_loop(text, f"tile_{block}_{sizes[0]}")
            cycles = modelled(loop, cpu)
            work = 4 * loop.count("fmla")
            rows.append((cpu, str(block), f"{sizes[0]} x {target.width}", str(loop.count("\n")), f"{cycles:.1f}",
                         f"{work / cycles:.2f}"))  # fmt: skip
    head = ("processor", "channels", "pixels", "instructions", "cycles", "multiply-adds a cycle")
    print_table("Inner loop of the kernels, one non-zero (or block): llvm-mca", head, rows)


def inner_loop(text: str, function: str) -> str:
    """The shortest loop of a function that multiplies, without its jump back.

    Args:
        text: Assembly.
        function: Its name.
    """
    body = re.search(rf"^{function}:\n(.*?)^\.Lfunc_end", text, re.DOTALL | re.MULTILINE)
    assert body, function
    loops = re.finditer(r"^(\.LBB\w+):.*\n((?:\t.*\n|//.*\n)*?)\tb\.?\w*\t\1\n", body[1], re.MULTILINE)
    return min((loop[2] for loop in loops if "fmla" in loop[2]), key=len)


def modelled(loop: str, cpu: str) -> float:
    """Cycles of an iteration.

    Args:
        loop: Assembly.
        cpu: As LLVM names it.
    """
    command = ["llvm-mca", "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={ITERATIONS}"]
    ran = subprocess.run(command, input=loop, capture_output=True, text=True, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", ran.stdout)
    assert found, ran.stdout
    return int(found[1]) / ITERATIONS


if __name__ == "__main__":
    main()
