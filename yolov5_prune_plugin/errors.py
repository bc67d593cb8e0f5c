"""What can go wrong, what it is about, and how it ends a script: one line on stderr and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Optional


class PruneError(ValueError):
    """The user's input is wrong: a flag, a file or a combination of them.

    Attributes:
        message: What is wrong, what was found, and what would do.
        field: What it is about: a parameter of a function, a field of a config, or a flag or file as the user knows it;
            None if the message says so itself. Where one of several values is wrong, it follows after a space. Callers
            that know the flag's name put it in with ``named``.
    """

    def __init__(self, message: str, field: Optional[str] = None) -> None:
        super().__init__(message)
        self.message, self.field = message, field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class NoResultError(RuntimeError):
    """The input is right, and still what was asked for can't be had: a measurement failed, no model keeps a budget."""


class UpstreamError(RuntimeError):
    """The YOLOv5 checkout or package is not what we know how to work with."""


@contextmanager
def named(default: Optional[str] = None, **names: str) -> Iterator[None]:
    """Say errors of the block by the names that the user knows.

    Args:
        default: For an error whose field is None, or not in ``names``; put before its own field if it has one.
        names: Fields -> flags or files, such as ``include="--prune-include"``.

    Raises:
        PruneError: The one of the block, with the field renamed.
    """
    try:
        yield
    except PruneError as error:
        field, _, value = (error.field or "").partition(" ")
        known = names.get(field)
        known = f"{known} {value}" if known and value else known
        if known is None and default is None:
            raise
        if known is None and error.field is not None:
            raise PruneError(str(error), default) from None
        raise PruneError(error.message, known or default) from None


# errors of a place to write or read that say all there is to say: a full or read-only disk, no right to it
_OF_PLACES = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE,
              errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTSUP}  # fmt: skip
_NO_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory")  # in RuntimeErrors of torch


@contextmanager
def clear_exit() -> Iterator[None]:
    """Turn errors that say all there is to say into one line and an exit code; they pass upstream's ``except``.

    Exit code 2: a PruneError or UpstreamError, a place that can't be written to or read, memory that is not there. 1: a
    NoResultError; also without a line, where nobody reads our output any more.
    """
    try:
        yield
        sys.stdout.flush()
    except (PruneError, UpstreamError, NoResultError) as error:
        _leave(str(error), 1 if isinstance(error, NoResultError) else 2, error)
    except BrokenPipeError as error:
        _leave("", 1, error)
    except MemoryError as error:
        _leave("needs more memory than there is", 2, error)
    except OSError as error:
        if error.errno not in _OF_PLACES:
            raise
        _leave(f"{error.filename or 'output'}: {error.strerror}", 2, error)
    except RuntimeError as error:
        if not any(what in str(error) for what in _NO_MEMORY):
            raise
        _leave(f"needs more memory than there is: {' '.join(str(error).split())[:160]}", 2, error)


def forgiving_output() -> None:
    """Have what an encoding of our output lacks written as an escape, instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _leave(line: str, code: int, error: BaseException) -> NoReturn:
    if not _stdout_works():
        with suppress(OSError, ValueError):  # what is left in its buffer would fail once more as Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if line:
        with suppress(OSError):
            print(f"yolov5-prune: error: {line}", file=sys.stderr)
    raise SystemExit(code) from (None if isinstance(error, (PruneError, UpstreamError, NoResultError)) else error)


def _stdout_works() -> bool:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return False
    return True


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """Name what was probably meant, to be put at the end of an error; empty if nothing is near.

    Args:
        text: What was found.
        known: What would do.
    """
    import difflib

    near = difflib.get_close_matches(text, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def near_file(file: Path) -> str:
    """Name the file that was probably meant, to be put at the end of an error; empty if there is none like it."""
    if file.exists():
        return ""
    try:
        there = [other.name for other in file.parent.iterdir()]
    except OSError:
        return ""
    meant = did_you_mean(file.name, there)
    return meant.replace("mean ", f"mean {file.parent}/") if meant and str(file.parent) != "." else meant
