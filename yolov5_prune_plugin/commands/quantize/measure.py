"""Upstream's own val.py on a model in any of its formats, in a process of its own: python -m ... CONTENT.json."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.errors import NoResultError


def validate_exported(
    upstream: Any, task: str, weights: Path, data: str, size: tuple[int, int], folder: Path
) -> dict[str, float]:  # fmt: skip
    """Measure a model with upstream's val.py, one image at a time, as it takes exported models.

    Args:
        upstream: Whose val.py.
        task: The folder of the scripts of its task.
        weights: A .onnx file, or a folder of OpenVINO's.
        data: For --data.
        size: Height and width in pixels.
        folder: For the process and what val.py writes.

    Returns:
        The figures that val.py returns, by name, in [0, 1].

    Raises:
        NoResultError: If it failed, has no labels, or its NMS left images out.
    """
    from yolov5_prune_plugin.jobs.process import Job, last_lines, run

    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "result.json"
    content = {"root": str(upstream.root), "package": upstream.package, "task": task, "weights": str(weights.resolve()),
               "data": str(Path(data).resolve()) if Path(data).exists() else data, "size": max(size),
               "folder": str(folder), "result": str(result)}  # fmt: skip
    job = Job(("-m", "yolov5_prune_plugin.commands.quantize.measure", json.dumps(content)), folder / "job",
              str(weights), Path.cwd())  # fmt: skip
    ended = run(job, {})
    if ended.code != 0 or not result.is_file():
        lines = "\n".join(last_lines(job.log, 8))
        raise NoResultError(f"the validation of {weights.name} failed ({ended}):\n{lines}")
    found = json.loads(result.read_text(encoding="utf-8"))
    result.unlink()
    if found.get("failed"):
        raise NoResultError(f"the validation of {weights.name} is no measurement: {found['failed']}")
    return {name: float(value) for name, value in found.items()}


def main(given: dict[str, Any]) -> None:
    """Run val.py's ``run`` and write what it returns.

    Args:
        given: As ``validate_exported`` makes it.
    """
    from yolov5_prune_plugin.yolov5.compat.apply import apply
    from yolov5_prune_plugin.yolov5.seams.seams import load_scripts
    from yolov5_prune_plugin.yolov5.sessions.inference import NO_LABELS
    from yolov5_prune_plugin.yolov5.sessions.nms import TimeLimit

    root, path = Path(given["root"]), f"{given['task']}val.py"
    script = load_scripts()[path]
    apply(root)
    sys.path.insert(len(sys.path) if given["package"] else 0, str(root))
    module = importlib.import_module(given["package"] + path[:-3].replace("/", "."))
    limit, labels = TimeLimit(), []

    def counted(original: Any) -> Any:
        def create(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            labels.append(sum(len(of_image) for of_image in made[1].labels))
            return made

        return create

    names = vars(module)
    if "create_dataloader" in names:
        names["create_dataloader"] = counted(names["create_dataloader"])
    if "non_max_suppression" in names:
        names["non_max_suppression"] = limit.watched(names["non_max_suppression"])
    options = {"weights": given["weights"], "data": given["data"], "batch_size": 1, "imgsz": given["size"],
               "device": "cpu", "workers": 0, "half": False, "project": given["folder"], "name": "val",
               "exist_ok": True, "verbose": False}  # fmt: skip
    if not given["task"].startswith("classify"):
        options["plots"] = False
    returned = module.run(**options)
    values = returned if script.results_in is None else returned[script.results_in]
    found: dict[str, Any] = dict(zip(script.results, map(float, values)))
    if labels and not sum(labels):
        found = {"failed": NO_LABELS}
    elif limit.dropped:
        found = {"failed": "upstream's NMS ran into its time limit; run it on a faster or idle machine"}
    Path(given["result"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
