"""Scripts in processes that have torch imported when they begin: forks of one Python, which did it once.

A process of its own for each script is what tests of real scripts need; three of the four seconds of CPU in which such
a process imports what upstream imports are not. Nothing of upstream or of ours is imported before the fork.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any, Optional

LARGE = ("cv2", "matplotlib.pyplot", "pandas", "seaborn", "torch", "torch.utils.tensorboard", "torchvision", "yaml")


class Nursery:
    """Runs Python command lines one after the other, each in a fork of a Python that waits for them."""

    process: Optional[subprocess.Popen[str]] = None

    def _start(self) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                env=environment, text=True, start_new_session=True)  # fmt: skip

    def run(self, arguments: list[str], cwd: Path, env: dict[str, str], output: Path, timeout: float) -> int:
        """As ``python ARGUMENTS``: ``-m MODULE``, ``-c CODE`` or a file, and what follows.

        Args:
            arguments: Behind ``python``.
            cwd: Where it runs.
            env: The whole environment.
            output: A file for what it prints, errors too.
            timeout: Seconds.

        Returns:
            The exit code; negative for a signal.

        Raises:
            TimeoutError: If it takes longer; it is stopped then, and with it the Python that waits.
        """
        if self.process is None or self.process.poll() is not None:
            self.process = self._start()
        assert self.process.stdin
        assert self.process.stdout
        job = {"arguments": arguments, "cwd": str(cwd), "env": env, "output": str(output)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise TimeoutError(f"{arguments}: not done after {timeout} s")
        return int(self.process.stdout.readline())


def serve() -> dict[str, Any]:
    """Fork for each job that comes; returns in the child, with its job."""
    for name in LARGE:
        __import__(name)
    gc.freeze()  # what is here stays, so children need no copies of it
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    raise SystemExit


def become(job: dict[str, Any]) -> None:
    """Be the process that ``python ARGUMENTS`` starts, to its end."""
    with open(os.devnull) as nothing, open(job["output"], "wb") as output:
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source.fileno(), target)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    how, *rest = job["arguments"]
    first = {"-m": job["cwd"], "-c": ""}.get(how, os.path.dirname(os.path.abspath(how)))
    sys.path[:1] = [first, *filter(None, job["env"].get("PYTHONPATH", "").split(os.pathsep))]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = rest if how == "-m" else [how, *rest[how == "-c" :]]
    code: object = 0
    try:
        if how == "-m":
            runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]
        elif how == "-c":
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        else:
            main.__file__ = how
            exec(compile(Path(how).read_bytes(), how, "exec"), main.__dict__)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        code = traceback.format_exc().rstrip()
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what an interpreter does at its end, but for taking all down
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    become(serve())
