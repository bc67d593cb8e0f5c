"""The engine: many jobs through a pool of workers, with another try for those whose process died."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Optional, Protocol

from yolov5_prune_plugin.jobs.local import LocalPool, cores
from yolov5_prune_plugin.jobs.options import EngineOptions
from yolov5_prune_plugin.jobs.process import Ended, Job

POLL = 0.25  # seconds; the progress display is refreshed between


class Pool(Protocol):
    """What runs jobs side by side: LocalPool, RayPool.

    Attributes:
        workers: Jobs at a time, at most.
        threads: CPU threads of each.
    """

    workers: int
    threads: int

    def start(self, job: Job) -> None:
        """Start a job; fewer than ``workers`` are running."""

    def wait(self, seconds: float) -> list[tuple[Job, Ended]]:
        """Wait for jobs to end, ``seconds`` at most; give those that ended since the last call."""

    def stop(self) -> None:
        """End the jobs that still run, and close the pool."""


@dataclass(frozen=True)
class Result:
    """How a job ended, after its last try.

    Attributes:
        job: The job.
        ended: Exit code or loss of the last try.
        tries: How often it was started.
        seconds: Of the last try, from its start on.
    """

    job: Job
    ended: Ended
    tries: int
    seconds: float


def open_pool(options: EngineOptions, gpus: Optional[Sequence[str]]) -> Pool:
    """Open the pool that the flags ask for.

    Args:
        options: The flags.
        gpus: Names for CUDA_VISIBLE_DEVICES of the GPUs on this machine that may be used; None: none of any machine.

    Raises:
        PruneError: If there is no such cluster.
    """
    if options.engine == "ray":
        from yolov5_prune_plugin.jobs.ray_engine import RayPool

        return RayPool(options.workers, options.threads, options.address, gpus)
    workers = options.workers or len(gpus or ()) or max(1, cores() // 2)
    return LocalPool(workers, options.threads or max(1, cores() // workers), gpus or ())


def run_jobs(
    jobs: Iterable[Job],
    pool: Pool,
    retries: int,
    started: Callable[[Job, int], None],
    ended: Callable[[Result], None],
) -> None:
    """Run all jobs; the pool is stopped in any case, and with it what still runs.

    Args:
        jobs: In the order to start them.
        pool: Where to.
        retries: How often a job is started again whose process was killed or whose worker was lost. A job that ended by
            itself is not: it would end the same way again.
        started: Called with a job and the number of its try, from 1.
        ended: Called with the result of each job, once.

    Raises:
        KeyboardInterrupt: On Ctrl-C; results reported until then stand.
    """
    waiting = deque((job, 1) for job in jobs)
    running: dict[str, tuple[int, float]] = {}  # by folder: try, start
    try:
        while waiting or running:
            while waiting and len(running) < pool.workers:
                job, number = waiting.popleft()
                running[str(job.folder)] = number, time.monotonic()
                started(job, number)
                pool.start(job)
            for job, end in pool.wait(POLL):
                number, since = running.pop(str(job.folder))
                if end.died and number <= retries:
                    waiting.appendleft((job, number + 1))
                else:
                    ended(Result(job, end, number, time.monotonic() - since))
    finally:
        pool.stop()
