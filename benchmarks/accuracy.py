"""yolov5n, official weights, on the first 128 images of COCO val2017: dense and pruned, through each release's val.py.

    python -m benchmarks.accuracy [--shared DIR] [--releases 7.0.14 master ...] [--set coco|shapes]

With ``--set shapes`` it is the embedded detector and its data at 320 instead. Otherwise it needs the official weights
and images in ``--shared`` (default ../shared), laid out by its data/make_yaml.py. PyPI's 7.0.14 always runs; 6.x where
``make test`` put them; git tags where $YOLOV5_MIRROR names a bare clone. A run in which upstream's NMS time limit
dropped detections is marked, as its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import print_table
from yolov5_prune_plugin.commands.demo import lay_out
from yolov5_prune_plugin.files import data_dir

WHEELS, TAGS = ("6.2.3", "6.1.9", "6.0.7"), ("v6.0", "v6.1", "v6.2", "v7.0", "master")
FIGURES = ("precision", "recall", "map50", "map")


def main() -> None:
    """Run them all and print one table."""
    mirror = os.environ.get("YOLOV5_MIRROR")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV5_PRUNE_SHARED", "../shared")))
    parser.add_argument("--releases", nargs="+", default=["7.0.14", *WHEELS, *(TAGS if mirror else ())])
    parser.add_argument(
        "--set", choices=("coco", "shapes"), default="coco", help="shapes: the embedded data and weights"
    )
    parser.add_argument("--prune", default="0.3")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.set == "shapes":
            weights, data, imgsz = data_dir() / "shapes-yolov5n.pt", lay_out(folder), "320"
        elif (options.shared / "weights" / "yolov5n.pt").is_file():
            weights, data, imgsz = *coco(options.shared.resolve(), folder / "data"), "640"
        else:
            print(f"accuracy: no official weights at {options.shared}; give --shared DIR with weights/ and data/")
            return
        for release in options.releases:
            target, path = prepare(release, folder, mirror)
            for distribution in ("uniform", "global"):
                arguments = ["--weights", weights, "--data", data, "--imgsz", imgsz, "--batch-size", "8", "--device",
                             "cpu", "--project", folder / release, "--name", distribution, "--prune", options.prune,
                             "--prune-distribution", distribution]  # fmt: skip
                if distribution == "uniform":
                    arguments.append("--prune-baseline")
                command = [sys.executable, "-m", "yolov5_prune_plugin", "run", target, *arguments]
                done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, text=True, check=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
                report = json.loads((folder / release / distribution / "prune" / "report.json").read_text())
                mark = " NMS TIME LIMIT" if "time limit" in done.stdout else ""
                if "baseline" in report:
                    rows.append(row(f"{release}", "dense" + mark, report["baseline"]))
                kind = f"{options.prune} {distribution}, {report['pruned_weights']}"
                rows.append(row(release, kind + mark, report))
                print("|", *rows[-1], flush=True)  # progress
    print_table("mAP of each release's own val.py", ("release", "amount", "P", "R", "mAP50", "mAP50-95"), rows)


def coco(shared: Path, folder: Path) -> tuple[Path, Path]:
    """The official weights, and the file of the 128 images."""
    subprocess.run([sys.executable, shared / "data" / "make_yaml.py", folder], check=True, stdout=subprocess.DEVNULL)
    # under the name coco.yaml val.py would write JSON for COCO's own evaluation, and PyPI 6.2.3 trips over it
    return shared / "weights" / "yolov5n.pt", (folder / "coco.yaml").rename(folder / "val128.yaml")


def row(release: str, kind: str, figures: dict[str, float]) -> tuple[str, ...]:
    """One line of the table."""
    return (release, kind, *(f"{figures[name]:.3f}" for name in FIGURES))


def prepare(release: str, folder: Path, mirror: str | None) -> tuple[str, str]:
    """What to run, and the PYTHONPATH for it."""
    if release in TAGS:
        clone = folder / f"clone-{release}"
        subprocess.run(
            ["git", "-c", "advice.detachedHead=false", "clone", "-q", "-b", release, str(mirror), str(clone)],
            check=True,
        )
        return str(clone / "val.py"), os.getcwd()
    place = Path(sys.prefix) / "releases" / release
    return "yolov5.val", os.pathsep.join([str(place), os.getcwd()]) if place.is_dir() else os.getcwd()


if __name__ == "__main__":
    main()
