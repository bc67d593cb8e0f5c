"""One validation by upstream's own val.py, in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from yolov5_prune_plugin.errors import NoResultError, PruneError
from yolov5_prune_plugin.files import temporary_folder
from yolov5_prune_plugin.jobs.process import Job, last_lines, run
from yolov5_prune_plugin.reporting.next_steps import ours
from yolov5_prune_plugin.yolov5.checkout.upstream import Upstream
from yolov5_prune_plugin.yolov5.seams.seams import load_scripts


def script_command(upstream: Upstream, path: str, *arguments: object) -> str:
    """Write a command line that runs a script of a YOLOv5 with our flags.

    Args:
        upstream: Whose script.
        path: Such as ``segment/val.py``.
        arguments: Its arguments.
    """
    script = upstream.script(path)
    return ours("run", script if upstream.package else os.path.relpath(script), *arguments)


def train_command(upstream: Upstream, task: str, weights: object, data: object, *arguments: object) -> str:
    """Write a command line that trains on from weights.

    Args:
        upstream: Whose script.
        task: The folder of the scripts of the model's task.
        weights: The checkpoint.
        data: For --data.
        arguments: More of them.
    """
    flag = "--model" if task == "classify/" else "--weights"
    return script_command(upstream, f"{task}train.py", flag, weights, "--data", data, *arguments)


def check_data(upstream: Upstream, data: str) -> None:
    """Refuse a data set that upstream's val.py would not find, before anything else is done.

    Args:
        upstream: Whose val.py; it looks in its data folder too.
        data: For --data.

    Raises:
        PruneError: If there is no such file or folder.
    """
    name, folder = Path(data).name, upstream.root / "data"
    if Path(data).exists() or "://" in data or any(folder.rglob(name) if name else ()):
        return
    if Path(data).suffix in (".yaml", ".yml", ".zip") or len(Path(data).parts) > 1:  # others are known to be downloaded
        raise PruneError(f"no such file, here or in {folder}; give a data set's YAML", f"--data {data}")


def validate(
    upstream: Upstream, task: str, weights: Path, data: str, size: int, batch: int,
    flags: Sequence[str] = ("--prune", "0"),
) -> tuple[str, float]:  # fmt: skip
    """Measure the figure that a model of this task is judged by, with upstream's val.py.

    Args:
        upstream: Whose val.py.
        task: The folder of the scripts of its task.
        weights: The checkpoint.
        data: For --data.
        size: For --imgsz.
        batch: For --batch-size.
        flags: Of ours, which have the report written.

    Returns:
        Name of the figure (map, mask_map, top1), and its value in [0, 1].

    Raises:
        NoResultError: If the script failed, or its NMS dropped images; it has the last lines of what was printed.
    """
    path = f"{task}val.py"
    figure = load_scripts()[path].figure
    with temporary_folder() as folder:
        place = Path(folder)
        out = place / "val"
        job = Job(
            ("-m", "yolov5_prune_plugin", "run", upstream.script(path), "--weights", str(weights.resolve()), "--data",
             data, "--imgsz", str(size), "--batch-size", str(batch), "--workers", "0", "--device", "cpu", "--project",
             str(out), "--name", "v", *flags),
            place / "job", str(weights), Path.cwd())  # fmt: skip
        ended = run(job, {})
        report = out / "v" / "prune" / "report.json"
        if ended.code != 0 or not report.is_file():
            lines = "\n".join(last_lines(job.log, 8))
            raise NoResultError(f"the validation of {weights} failed ({ended}):\n{lines}")
        content = json.loads(report.read_text(encoding="utf-8"))
    if content.get("failed"):
        raise NoResultError(f"the validation of {weights} is no measurement: {content['failed']}")
    return figure, float(content[figure])
