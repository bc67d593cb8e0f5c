"""Processes that a test starts: they take Ctrl-C as in a terminal, and none is left behind."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def restore_ctrl_c() -> None:
    """Take SIGINT as a terminal's process does, where the parent ignored it, as the shell of a background job does.

    What is ignored stays so in all processes that are started from here.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def started(command: list[str], **keywords: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a process for a block, and kill it at its end if it still runs.

    Args:
        command: And its arguments.
        keywords: Of ``subprocess.Popen``.
    """
    process = subprocess.Popen(command, **keywords)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
