"""Points: what one evaluation measured, kept as JSON, so that a study that was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, Optional

from yolov5_prune_plugin.commands.curve.after import THEN
from yolov5_prune_plugin.commands.curve.study import Study
from yolov5_prune_plugin.jobs.engine import Result
from yolov5_prune_plugin.jobs.process import Job, last_lines
from yolov5_prune_plugin.options import with_flags
from yolov5_prune_plugin.reporting.run_folder import json_of, write_report

FILE = "point.json"
MODEL, PACKED = "model.pt", "model.y5z"
AFTER = ("-m", "yolov5_prune_plugin.commands.curve.after")


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation that is wanted.

    Attributes:
        label: For people, and for the name of its folder: ``magnitude global 0.3``.
        asked: What tells it from the study's other points, such as method, distribution and amount.
        arguments: The script's own arguments, and our flags but those that say where results go.
        first: A command of ours that makes the model that is measured, without its -o; empty measures the study's.
        model: Name of that model's file.
    """

    label: str
    asked: dict[str, Any]
    arguments: tuple[str, ...]
    first: tuple[str, ...] = ()
    model: str = MODEL


@dataclass
class Outcome:
    """What became of a point.

    Attributes:
        point: The point.
        content: Its figures by name, ``conv_sparsity``, ``multiplications_left``, ``ms``, ``bytes``, ``zip_bytes``,
            ``seconds``; empty until known.
        failed: Why there are none, if it failed.
        reused: Whether an earlier run had measured it.
    """

    point: CurvePoint
    content: dict[str, Any] = field(default_factory=dict)
    failed: str = ""
    reused: bool = False

    @property
    def done(self) -> bool:
        """Whether it was measured."""
        return bool(self.content) and not self.failed


class Store:
    """The points of a run folder, one folder each."""

    def __init__(self, folder: Path, study: Study) -> None:
        """Name the folder; nothing is read or written yet.

        Args:
            folder: The run folder.
            study: What is measured; decides with a point's arguments whether an earlier result is the same.
        """
        self.folder, self.study = folder, study

    def key(self, point: CurvePoint) -> str:
        """Hash all that decides a point's result, with SHA-256."""
        decides = {**self.study.facts, "arguments": point.arguments}
        if point.first:
            decides["first"] = point.first
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def job(self, point: CurvePoint, cwd: Path) -> Job:
        """Make the job that measures a point.

        Args:
            point: The point.
            cwd: Directory to run it in.
        """
        key = self.key(point)
        folder = self._folder(point, key)
        where = ("--project", str(folder), "--name", "val", "--exist-ok")
        if point.first:
            made = str(folder / point.model)
            made_first = (*AFTER, *point.first, "-o", made, THEN, *self.study.runner[2:])
            return Job((*made_first, *with_flags(point.arguments, "--weights", made), *where), folder, key, cwd)
        return Job(
            (*self.study.runner, *point.arguments, "--prune-save", str(folder / MODEL), *where), folder, key, cwd
        )

    def kept(self, point: CurvePoint, keep_model: bool) -> Optional[Outcome]:
        """Read what an earlier run measured.

        Args:
            point: The point.
            keep_model: Whether its checkpoint is needed too.

        Returns:
            None if it did not, failed, or if what is needed of it is gone or damaged.
        """
        key = self.key(point)
        if keep_model and not (self._folder(point, key) / point.model).is_file():
            return None
        try:
            content = json.loads((self._folder(point, key) / FILE).read_text(encoding="utf-8"))
            if content["key"] != key or content["failed"]:
                return None
            return Outcome(point, content["measured"], reused=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def ended(self, point: CurvePoint, result: Result, threads: int, keep_model: bool) -> Outcome:
        """Read what a job left, and keep it.

        Args:
            point: The point.
            result: How its job ended.
            threads: CPU threads it had, to be noted.
            keep_model: Whether its checkpoint stays.

        Raises:
            PruneError: If it can't be written.
        """
        outcome = _read(point, result, self.study.script.results)
        model = result.job.folder / point.model
        if outcome.done:
            outcome.content["flops"] = _flops_left(model)
        if model.is_file() and outcome.done:
            size = model.stat().st_size
            outcome.content.update(bytes=size, zip_bytes=size if model.suffix == ".y5z" else zipped_bytes(model))
        if not keep_model:
            model.unlink(missing_ok=True)
        content = {"key": result.job.key, "asked": point.asked, "failed": outcome.failed, "measured": outcome.content,
                   "tries": result.tries, "threads": threads, "arguments": point.arguments,
                   "decided_by": self.study.facts}  # fmt: skip
        write_report(result.job.folder, {FILE: json_of(content)}, f"the point {point.label}")
        return outcome

    def _folder(self, point: CurvePoint, key: str) -> Path:
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", point.label).strip("-.")[:80]
        return self.folder / "points" / f"{slug}-{key[:10]}"


def _read(point: CurvePoint, result: Result, figures: tuple[str, ...]) -> Outcome:
    """The figures of report.json, or why there are none."""
    tries = f", {result.tries} times" if result.tries > 1 else ""
    if result.ended.died:
        return Outcome(point, failed=f"{result.ended}{tries}")
    try:
        report = json.loads((result.job.folder / "val" / "prune" / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = {}
    if report.get("failed"):
        return Outcome(point, failed=str(report["failed"]))
    if result.ended.code:
        return Outcome(point, failed=f"{_error_line(result.job.log) or 'it printed nothing'} ({result.ended})")
    missing = [name for name in (*figures, "conv_sparsity") if not _is_number(report.get(name))]
    if missing:
        return Outcome(point, failed=f"the script ended well, but val/prune/report.json has no {missing[0]}")
    names = (*figures, "conv_sparsity", "total_sparsity")
    measured = {name: float(report[name]) for name in names if name in report}
    if _is_number(report.get("multiplications")):
        left = report["multiplications"] - report["zero_multiplications"]
        measured |= {"multiplications": float(report["multiplications"]), "multiplications_left": float(left)}
    measured |= _time(result.job.folder / "val" / "prune" / "runtime.json")
    return Outcome(point, {**measured, "bytes": None, "zip_bytes": None, "seconds": round(result.seconds, 2)})


def _time(file: Path) -> dict[str, float]:
    """Milliseconds for an image in the sparse runtime, where the study's flags ask for it."""
    try:
        ms = json.loads(file.read_text(encoding="utf-8"))["ms"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"ms": float(ms)} if _is_number(ms) else {}


def _flops_left(model: Path) -> float:
    """Share of the FLOPs of the model that was given: slim's report beside the model says it."""
    try:
        report = json.loads((model.with_name(f"{model.stem}_slim") / "report.json").read_text(encoding="utf-8"))
        return float(report["after"]["flops"] / report["before"]["flops"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1.0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _error_line(log: Path) -> str:
    lines = last_lines(log, 50)
    ours = [line for line in lines if "error:" in line.lower()]
    return shorten((ours or lines or [""])[-1], 300, placeholder=" ...")


def zipped_bytes(file: Path) -> int:
    """Bytes of a zip archive that holds the file alone, deflated."""
    with tempfile.TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
            writer.write(file, file.name)
        return archive.tell()
