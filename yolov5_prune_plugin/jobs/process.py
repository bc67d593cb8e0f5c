"""One evaluation as a process of its own: started in a fresh folder, output in log.txt, stopped with its children."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

LOG = "log.txt"
GRACE = 3.0  # seconds between the wish to stop and the kill
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                    "VECLIB_MAXIMUM_THREADS")  # fmt: skip

# Linux: the kernel kills the process when the one that started it is gone, however that ended (kill -9, a lost Ray
# worker), so that nobody is left writing into a folder that the next try uses. It outlives exec.
_GUARD = ("import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9);"
          " os.execv(sys.executable, [sys.executable, *sys.argv[1:]])")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One evaluation to run.

    Attributes:
        arguments: Command line of the Python that runs it, such as ("-m", "yolov5_prune_plugin", "run", "val.py").
        folder: Its own: emptied before each try; gets ``log.txt``. On a cluster, on a file system that all share.
        key: Names what decides the result; two jobs with the same key would give the same.
        cwd: Directory to run it in.
    """

    arguments: tuple[str, ...]
    folder: Path
    key: str
    cwd: Path

    @property
    def log(self) -> Path:
        """File with all that the job printed."""
        return self.folder / LOG


@dataclass(frozen=True)
class Ended:
    """How one try of a job ended.

    Attributes:
        code: Exit code; -N if signal N killed it; None if its worker was lost with it.
        lost: Why there is no exit code; empty if there is one.
    """

    code: Optional[int]
    lost: str = ""

    @property
    def died(self) -> bool:
        """Whether it was killed or lost, which says nothing of its input: worth another try."""
        return self.code is None or self.code < 0

    def __str__(self) -> str:
        if self.code is None:
            return f"its worker was lost: {self.lost}"
        if self.code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-self.code).name}"
        return f"exit code {self.code}"


class Child:
    """A job's process."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        """Empty the job's folder and start its process.

        Args:
            job: What to run.
            environment: What differs from this process's environment.

        Raises:
            OSError: If the folder can't be made or Python can't be started.
        """
        shutil.rmtree(job.folder, ignore_errors=True)
        job.folder.mkdir(parents=True, exist_ok=True)
        guard = ("-S", "-E", "-c", _GUARD) if sys.platform == "linux" else ()
        with open(job.log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *guard, *job.arguments], cwd=job.cwd, env={**os.environ, **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip

    def poll(self) -> Optional[Ended]:
        """Look how it ended; None while it runs."""
        code = self._process.poll()
        return None if code is None else Ended(code)

    def stop(self) -> None:
        """End the process and those it started: asked first, killed after ``GRACE`` seconds."""
        if self._process.poll() is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also if a second Ctrl-C comes meanwhile
            self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


def run(job: Job, environment: Mapping[str, str]) -> Ended:
    """Run a job to its end; stop it if this thread is interrupted.

    Args:
        job: What to run.
        environment: What differs from this process's environment.

    Raises:
        OSError: If the folder can't be made or Python can't be started.
    """
    child = Child(job, environment)
    try:
        while True:
            ended = child.poll()
            if ended is not None:
                return ended
            time.sleep(0.05)
    finally:
        child.stop()


def threads_environment(threads: int) -> dict[str, str]:
    """Make the environment variables that hold torch, numpy and their libraries to a number of CPU threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def last_lines(log: Path, count: int) -> list[str]:
    """Read the last lines of a log that say something; a progress bar counts as one line, in its last state.

    Args:
        log: The file; one that can't be read has no lines.
        count: Lines at most.
    """
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 65536))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in lines if line][-count:]
