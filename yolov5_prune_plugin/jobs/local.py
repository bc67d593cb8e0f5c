"""--engine local: processes on this machine, one a GPU or sharing the cores."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Optional

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.jobs.process import Child, Ended, Job, threads_environment


class LocalPool:
    """Runs up to ``workers`` jobs at a time."""

    def __init__(self, workers: int, threads: int, gpus: Sequence[str] = ()) -> None:
        """Give each worker its GPU; nothing is started yet.

        Args:
            workers: Jobs side by side.
            threads: CPU threads of each.
            gpus: What CUDA_VISIBLE_DEVICES may name; each worker has one of them, in turn. None without GPUs.
        """
        self.workers, self.threads = workers, threads
        self._gpus = [gpus[index % len(gpus)] if gpus else None for index in range(workers)]
        self._running: dict[int, tuple[Job, Child]] = {}  # by worker

    def start(self, job: Job) -> None:
        """Start a job on a worker that is free.

        Raises:
            PruneError: If its folder can't be written to.
        """
        worker = next(index for index in range(self.workers) if index not in self._running)
        environment = threads_environment(self.threads)
        gpu: Optional[str] = self._gpus[worker]
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        try:
            self._running[worker] = job, Child(job, environment)
        except OSError as error:
            raise PruneError(f"{job.folder}: cannot be run there: {error}") from error

    def wait(self, seconds: float) -> list[tuple[Job, Ended]]:
        """Wait for jobs to end, ``seconds`` at most; give those that ended since the last call."""
        until = time.monotonic() + seconds
        while True:
            polled = {worker: (job, child.poll()) for worker, (job, child) in self._running.items()}
            ended = [(worker, job, end) for worker, (job, end) in polled.items() if end is not None]
            for worker, _, _ in ended:
                del self._running[worker]
            if ended or time.monotonic() >= until:
                return [(job, end) for _, job, end in ended]
            time.sleep(0.02)

    def stop(self) -> None:
        """End the jobs that still run."""
        while self._running:
            _, (_, child) = self._running.popitem()
            child.stop()


def cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
