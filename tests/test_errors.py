"""Errors of places, of output and of memory are lines, wherever they come from."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.coding.test_packing import sparse
from yolov5_prune_plugin.cli import main
from yolov5_prune_plugin.core.coding import container
from yolov5_prune_plugin.errors import NoResultError, PruneError, clear_exit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    container.write(tmp_path / "x.y5z", {}, {"w": sparse((64, 32, 3, 3), 0.9, 16).half()}, {})
    return tmp_path / "x.y5z"


def said(*arguments: object, code: int = 2, **keywords: object) -> str:
    """What ``yolov5-prune`` prints on stderr where it fails, in a process of its own."""
    environment = {**os.environ, **{str(key): str(value) for key, value in keywords.pop("env", {}).items()}}  # type: ignore[attr-defined]
    done = subprocess.run([sys.executable, "-m", "yolov5_prune_plugin", *map(os.fspath, map(_plain, arguments))],
                          stderr=subprocess.PIPE, env=environment, check=False, **keywords)  # type: ignore[call-overload]  # fmt: skip
    text = str(done.stderr, "utf-8", "backslashreplace")
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


def _plain(argument: object) -> object:
    return argument if isinstance(argument, (str, bytes, os.PathLike)) else str(argument)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PruneError("is wrong", "--flag"), 2, "--flag: is wrong"),
        (NoResultError("no model keeps it"), 1, "no model keeps it"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/x.csv"), 2, "/full/x.csv: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), 2, "output: Read-only file system"),
        (MemoryError(), 2, "needs more memory than there is"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate\nmemory"), 2,
         "needs more memory than there is: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)  # fmt: skip
def test_one_line_and_a_code(error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, clear_exit():
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err == f"yolov5-prune: error: {line}\n"


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file", "x"), RuntimeError("a fault"), KeyError("x")])
def test_what_may_be_a_fault_of_ours_is_shown_whole(error: Exception) -> None:
    with pytest.raises(type(error)), clear_exit():
        raise error


def test_output_that_cannot_be_written(file: Path) -> None:
    with open("/dev/full", "wb") as full:
        assert said("inspect", file, stdout=full) == ("yolov5-prune: error: output: No space left on device\n")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        assert said("inspect", file, stdout=closed, code=1) == ""


def test_names_and_encodings_that_are_no_utf8(file: Path, tmp_path: Path) -> None:
    """A file called by a byte that is none, to a terminal that knows ASCII alone; with its page and picture."""
    odd = os.fsencode(tmp_path) + b"/\xff\xe9.y5z"
    os.rename(file, odd)
    for env in ({"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        for page in (odd + b".html", odd + b".png"):
            Path(os.fsdecode(page)).unlink(missing_ok=True)
        assert said("inspect", odd, "--html", odd + b".html", "--png", odd + b".png", code=0, env=env,
                    stdout=subprocess.DEVNULL) == ""  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("inspect", "FILE", "--png", "x.foo"), "--png x.foo: must end in .png"),
        (("inspect", "FILE", "--html", "x.foo"), "--html x.foo: must end in .html"),
        (("inspect", "PIPE"), "cannot be read: is no regular file, but a pipe or device"),
        (("inspect", "/dev/zero"), "cannot be read: is no regular file, but a pipe or device"),
        (("inspect", "FILE", "--max-memory", "1kB"), "which takes up to 73,728 of memory; at most 1,000 are allowed"),
        (("inspect", "FILE", "--max-memory", "lots"), "--max-memory: must be a size such as"),
        (("compress", "w.pt", "-o", "x.y5z", "--init", "k-means++", "--seed", "-1"), "--seed: must be a whole number"),
        (("compress", "w.pt", "-o", "x.y5z", "--seed", "1" + 30 * "0"), "--seed: must be a whole number"),
        (("slim", "w.pt", "-o", "x.pt", "--target", "flops=0.5", "--imgsz", "-64"), "--imgsz: must be a whole number"),
        (("slim", "w.pt", "-o", "x.pt", "--target", "flops=0.5", "--imgsz", "0"), "--imgsz: must be a whole number"),
        (("slim", "w.pt", "-o", "x.pt", "--target", "flops=0.5", "--slim-seed", "-1"), "--slim-seed: must be"),
        (("bench", "w.pt", "--imgsz", "0"), "--imgsz: must be a whole number"),
        (("bench", "w.pt", "--batches", "0"), "--batches: must be a whole number"),
        (("bench", "w.pt", "--rounds", "2"), "--rounds: must be a whole number, at least 5"),
        (("bench", "w.pt", "--project", "/proc/x/y"), "--project /proc/x/y: the folder /proc cannot be written to"),
        (("decompress", "FILE", "-o", "LINK"), "is a symbolic link to"),
        (("decompress", "FILE", "-o", 300 * "n"), "cannot be written: File name too long"),
    ],
)  # fmt: skip
def test_wrong_input(
    arguments: tuple[str, ...], line: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    os.mkfifo("PIPE")
    Path("LINK").symlink_to("nowhere")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/proc" and access(path, mode))  # also for root
    with pytest.raises(SystemExit) as caught:
        main([str(file) if word == "FILE" else word for word in arguments])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert line in printed.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LINK", "PIPE", "x.y5z"]


def test_a_full_disk_leaves_neither_picture_nor_page(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from yolov5_prune_plugin.reporting import compress_report

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compress_report, "save_png", full)
    page, picture = file.with_suffix(".html"), file.with_suffix(".png")
    with pytest.raises(SystemExit):
        main(["inspect", str(file), "--html", str(page), "--png", str(picture)])
    printed = capsys.readouterr().err
    assert printed == (
        f"yolov5-prune: error: --png {picture}: cannot be written: No space left on device; nothing was left there\n"
    )
    assert [path.name for path in file.parent.iterdir()] == ["x.y5z"]


def test_more_memory_is_allowed_where_that_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOV5_PRUNE_MAX_MEMORY", "1kB")
    with pytest.raises(SystemExit):
        main(["inspect", str(file)])
    assert main(["inspect", str(file), "--max-memory", "1MB"]) == 0
    assert os.environ["YOLOV5_PRUNE_MAX_MEMORY"] == "1kB"
