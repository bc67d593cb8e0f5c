"""mAP against sparsity on the first 128 images of COCO val2017: magnitude and obs, by ``yolov5-prune curve``.

    python -m benchmarks.curve [--release master|v7.0|7.0.14] [--shared DIR] [--project DIR]

Table, PNG, HTML, CSV and JSON are left in the run folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.accuracy import coco, prepare


def main() -> None:
    """Run it in a process of its own."""
    mirror = os.environ.get("YOLOV5_MIRROR")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared")))
    parser.add_argument("--release", default="master" if mirror else "7.0.14")
    parser.add_argument("--project", type=Path, default=Path("runs/curve"))
    options = parser.parse_args()
    if not (options.shared / "weights" / "yolov5n.pt").is_file():
        print(f"curve: no official weights at {options.shared}; give --shared DIR with weights/ and data/")
        return
    with tempfile.TemporaryDirectory() as temporary:
        weights, data = coco(options.shared.resolve(), Path(temporary) / "data")
        target, path = prepare(options.release, Path(temporary), mirror)
        command = [sys.executable, "-m", "yolov5_prune_plugin", "curve", target, "--weights", weights, "--data", data,
                   "--imgsz", "640", "--batch-size", "8", "--device", "cpu", "--amounts", "0,0.3,0.5,0.7,0.8",
                   "--methods", "magnitude,obs", "--distributions", "global,loss", "--workers", "1",
                   "--project", options.project, "--name", f"yolov5n-{options.release}"]  # fmt: skip
        done = subprocess.run(list(map(str, command)), env={**os.environ, "PYTHONPATH": path})
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
