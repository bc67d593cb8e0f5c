"""--engine ray: each evaluation is a Ray task, which runs it as a process of its own, as the local engine does."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Sequence
from typing import Any, Optional

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.jobs.local import cores
from yolov5_prune_plugin.jobs.process import GRACE, Ended, Job, run, threads_environment

CARRIED = (
    "YOLO",
    "PYTHON",
    "TORCH",
    "WANDB",
    "CUBLAS",
    "ULTRALYTICS",
)  # variables that a worker needs as they are here


class RayPool:
    """Runs up to ``workers`` jobs at a time on a Ray cluster; see LocalPool for the meaning of its methods."""

    def __init__(
        self, workers: Optional[int], threads: Optional[int], address: Optional[str], gpus: Optional[Sequence[str]]
    ) -> None:
        """Connect to the cluster, or start one on this machine.

        Args:
            workers: Jobs side by side; None: one a GPU, or without GPUs one for each two cores.
            threads: CPU threads of each; None: the cores of the cluster / workers.
            address: Of the cluster, as ``ray.init`` takes it; None starts one.
            gpus: This machine's, for a cluster of its own; None keeps off the GPUs of any.

        Raises:
            PruneError: If Ray is not installed, no cluster answers, or it can't give a job what it needs.
        """
        self._ray = ray = _import_ray()
        address = address or os.environ.get("RAY_ADDRESS") or None
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
        if address:
            _connect(ray, address, quiet)
        else:
            many = workers or len(gpus or ()) or max(1, cores() // 2)
            each = threads or max(1, cores() // many)
            if gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)  # Ray gives these out
            ray.init("local", num_cpus=many * each, num_gpus=len(gpus or ()), **quiet)
        self._tasks: dict[Any, Job] = {}
        try:
            self.workers, self.threads, resources = _share(ray.nodes(), workers, threads, gpus is not None)
        except PruneError:
            ray.shutdown()
            raise
        # max_retries=0: the engine above counts the tries, and empties the folder between them
        self._task = ray.remote(max_retries=0, **resources)(run)
        self._environment = {
            **{name: value for name, value in os.environ.items() if name.startswith(CARRIED)},
            **threads_environment(self.threads),
        }

    def start(self, job: Job) -> None:
        """Hand a job to the cluster."""
        self._tasks[self._task.remote(job, self._environment)] = job

    def wait(self, seconds: float) -> list[tuple[Job, Ended]]:
        """Wait for jobs to end, ``seconds`` at most; give those that ended since the last call."""
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds) if self._tasks else ([], [])
        return [(self._tasks.pop(task), self._ended(task)) for task in ready]

    def stop(self) -> None:
        """End the jobs that still run, and leave the cluster; one that was started here ends with it."""
        try:
            for task in self._tasks:
                with contextlib.suppress(Exception):
                    self._ray.cancel(task, force=False)  # a KeyboardInterrupt there: process.run stops its child
            if self._tasks:
                self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=2 * GRACE)
        finally:
            self._ray.shutdown()

    def _ended(self, task: Any) -> Ended:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            return Ended(None, " ".join(str(error.cause or error).split()))
        except self._ray.exceptions.RayError as error:
            return Ended(None, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default; else it warns
    try:
        import ray
    except ImportError as error:
        raise PruneError(
            f"--engine ray needs Ray ({error}): pip install 'yolov5-prune-plugin[ray]', or use --engine local"
        ) from None
    return ray


def _connect(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    hint = "start one with ray start --head, or leave --address out to have one on this machine"
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():  # ray.init alone would try for minutes
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise PruneError(f"--address {address}: no Ray cluster answers there ({error}); {hint}") from None
    try:
        ray.init(address, **({} if "://" in address else quiet))
    except Exception as error:  # Ray raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PruneError(f"--address {address}: no Ray cluster answers there ({reason}); {hint}") from None


def _share(
    nodes: list[dict[str, Any]], workers: Optional[int], threads: Optional[int], on_gpus: bool
) -> tuple[int, int, dict[str, float]]:
    """Workers, threads of each, and what Ray shall set aside for one."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus, gpus = (int(sum(node.get(kind, 0) for node in alive)) for kind in ("CPU", "GPU"))
    many = workers or (gpus if on_gpus and gpus else max(1, cpus // 2))
    most = max((int(node.get("CPU", 0)) for node in alive), default=0)
    each = threads or max(1, min(cpus // many, most))
    if each > most:
        raise PruneError(f"--threads {each}: no node of the Ray cluster has so many CPU cores; {most} at most")
    share = min(1.0, math.floor(gpus / many * 100) / 100) if on_gpus else 0.0  # more workers than GPUs share them
    return many, each, {"num_cpus": each, "num_gpus": share}
