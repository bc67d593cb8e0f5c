"""Measures points side by side with live progress: reuses what an earlier run kept, survives failures and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from filelock import FileLock, Timeout
from rich.console import Console
from rich.text import Text

from yolov5_prune_plugin.commands.curve.curve_points import CurvePoint, Outcome, Store
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.jobs.engine import Result, open_pool, run_jobs
from yolov5_prune_plugin.jobs.options import EngineOptions
from yolov5_prune_plugin.jobs.process import Job, last_lines
from yolov5_prune_plugin.reporting.console import running_bar
from yolov5_prune_plugin.reporting.labels import is_figure, label

SHOWN = 8  # lines of a failed script's output


@dataclass
class Measured:
    """All outcomes, in the order of the points; ``interrupted`` if some are missing for a Ctrl-C."""

    outcomes: list[Outcome]
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 130 interrupted, 1 some failed, 0 all measured."""
        return 130 if self.interrupted else int(any(outcome.failed for outcome in self.outcomes))


def measure(
    points: Sequence[CurvePoint], store: Store, options: EngineOptions, console: Console, keep_models: bool = False
) -> Measured:
    """Measure each point that the store does not have yet.

    Args:
        points: What is wanted, in the order to start with.
        store: Where results are kept.
        options: Where the evaluations run.
        console: For progress, and a line for each point.
        keep_models: Whether the checkpoints stay.

    Raises:
        PruneError: If the engine can't be had or the folder can't be written to.
    """
    found = {point.label: store.kept(point, keep_models) for point in points}
    outcomes = {point.label: found[point.label] or Outcome(point) for point in points}
    wanted = {job.key: (job, point) for point in points if not found[point.label]
              for job in (store.job(point, Path.cwd()),)}  # fmt: skip
    measured = Measured(list(outcomes.values()))
    reused = len(points) - len(wanted)
    if reused:
        console.print(f"{reused} of {len(points)} points are here from an earlier run", soft_wrap=True)
    if not wanted:
        return measured
    try:
        pool = open_pool(options, store.study.gpus)
        console.print(f"{len(wanted)} points to measure, engine {options.engine}: {pool.workers} side by side,"
                      f" {pool.threads} threads each", soft_wrap=True)  # fmt: skip
        with _terminated_as_interrupted(), running_bar(console, len(wanted)) as update:
            show = _Display(console, {key: point for key, (_, point) in wanted.items()}, update)

            def ended(result: Result) -> None:
                outcome = store.ended(wanted[result.job.key][1], result, pool.threads, keep_models)
                outcomes[outcome.point.label].__dict__.update(outcome.__dict__)
                show.ended(result, outcome)

            run_jobs([job for job, _ in wanted.values()], pool, options.retries, show.started, ended)
    except KeyboardInterrupt:
        measured.interrupted = True
    return measured


@contextmanager
def locked(folder: Path, flag: str) -> Iterator[None]:
    """Make a run folder and keep others out of it.

    Args:
        folder: The run folder.
        flag: What it was given with, for errors.

    Raises:
        PruneError: If it can't be written to, or another run works in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise PruneError(f"{flag}: another run is at work in {folder}; wait for it, or give another --name") from None
    except OSError as error:
        raise PruneError(f"{flag}: {folder} cannot be written to: {error}") from error
    with lock:
        yield


class _Display:
    """Prints a line for each point that ended, and keeps the bar's text on what runs now."""

    def __init__(self, console: Console, points: dict[str, CurvePoint], update: Callable[[str, int], None]) -> None:
        self._console, self._points, self._bar = console, points, update
        self._running: list[str] = []
        self._reasons: set[str] = set()

    def started(self, job: Job, number: int) -> None:
        label = self._points[job.key].label
        if number > 1:
            self._console.print(Text(f"again {label}: its process died", style="yellow"), soft_wrap=True)
        if label not in self._running:
            self._running.append(label)
        self._update(0)

    def ended(self, result: Result, outcome: Outcome) -> None:
        self._running.remove(outcome.point.label)
        self._console.print(_line(outcome), soft_wrap=True)
        if outcome.failed and outcome.failed[:60] not in self._reasons:  # the same reason once
            self._reasons.add(outcome.failed[:60])
            for line in last_lines(result.job.log, SHOWN):
                self._console.print(Text(f"  | {line}", style="dim"), soft_wrap=True)
            self._console.print(Text(f"  all it printed: {result.job.log}", style="dim"), soft_wrap=True)
        self._update(1)

    def _update(self, advance: int) -> None:
        shown = "; ".join(self._running[:2]) + (f" and {len(self._running) - 2} more" if self._running[2:] else "")
        self._bar(shown, advance)


def _line(outcome: Outcome) -> Text:
    if outcome.failed:
        return Text(f"failed {outcome.point.label}: {outcome.failed}", style="red")
    figures = {name: value for name, value in outcome.content.items() if is_figure(name)}
    shown = "  ".join(f"{label(name, figures)} {value:.4f}" for name, value in figures.items())
    return Text(f"done {outcome.point.label}: {shown}  ({outcome.content['seconds']:.1f} s)")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A polite kill (SIGTERM, as schedulers send) ends a study as Ctrl-C does. Set after Ray has set its own."""
    try:
        before: Optional[object] = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)  # type: ignore[arg-type]
