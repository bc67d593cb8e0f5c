"""Kills each command that writes at its system calls that write: what is left is the old file or the new one.

    python -m benchmarks.kill_writes [--commands compress decompress ...] [--most 200]

Each command is run in a forked child, which strace is attached to; strace kills it (SIGKILL) as it enters its first
call that writes, then its second, and so on to the end (``--most`` of them, evenly spread, if there are more). After
each kill each file, and each report folder as a whole, must be that of before or the new one, and else there must be
nothing but private folders; the command is then run once more, after which these are gone too. Needs strace, and the
PyPI package yolov5.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import print_table
from yolov5_prune_plugin import cli
from yolov5_prune_plugin.files import PRIVATE, data_dir, written_whole

CALLS = ("write", "pwrite64", "writev", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat",
         "mkdir", "mkdirat", "rmdir", "symlink", "ftruncate", "fsync", "fallocate", "copy_file_range", "sendfile",
         "chmod", "fchmod")  # fmt: skip
SEVERAL = ("patch", "training")  # of files in one folder, each of which is complete for itself
WEIGHTS = data_dir() / "shapes-yolov5n.pt"


def main() -> int:
    """Run it; exit code 1 if something else than an old or a new file was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=[*COMMANDS], default=[*COMMANDS], help="which (all)")
    parser.add_argument("--most", type=int, default=200, help="kills of each (200)")
    options = parser.parse_args()
    if not shutil.which("strace"):
        parser.error("strace is not installed")
    preload()
    rows, faults = [], []
    with tempfile.TemporaryDirectory(prefix="yolov5-prune-") as place:
        for name in options.commands:
            tried, calls, wrong = kill(name, Path(place) / name, options.most)
            rows.append((name, f"{calls:,}", f"{tried:,}", str(len(wrong))))
            faults += wrong
    print_table("killed at calls that write", ("command", "calls", "kills", "faults"), rows)
    for fault in faults:
        print("FAULT", fault)
    return int(bool(faults))


def preload() -> None:
    """Import what commands import, once for all children."""
    from yolov5_prune_plugin.reporting import compress_report, slim_report  # noqa: F401
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream
    from yolov5_prune_plugin.yolov5.checkpoints import sidecar, y5z  # noqa: F401

    torch.set_num_threads(1)
    y5z.module_of(find_upstream(None).package)


def kill(name: str, folder: Path, most: int) -> tuple[int, int, list[str]]:
    """Run a command again and again, killed later each time.

    Args:
        name: One of ``COMMANDS``.
        folder: For its files.
        most: Kills at most.

    Returns:
        Kills, calls that write in a whole run, and faults.
    """
    prepare, run = COMMANDS[name]
    fresh(prepare, folder)
    before = contents(folder)
    warm(run, folder)
    fresh(prepare, folder)
    code, log = traced(run, folder, None)
    after, calls = contents(folder), len(log)
    if code or after == before:
        return 0, calls, [f"{name} fails without being killed: {code}"]
    step, whole = max(1, -(-calls // most)), [line.split("(")[0] for line in log]
    faults = []
    numbers = range(1, calls + 1, step)
    for number in numbers:
        fresh(prepare, folder)
        call = whole[number - 1]  # strace counts each kind of call for itself
        code, log = traced(run, folder, f"{call}:signal=SIGKILL:when={whole[:number].count(call)}")
        left = contents(folder)
        private = [place.name for place in folder.rglob(f"{PRIVATE}*")]
        where = f"{name}, call {number} of {calls} ({log[-1] if log else 'none'})"
        for file in sorted({*before, *after, *left}):
            if left.get(file) not in (before.get(file), after.get(file)):
                faults.append(f"{where}: {file} is neither the old nor the new one")
        for place in () if name in SEVERAL else sorted({file.split("/")[0] for file in {*before, *after, *left}}):
            there, *whole_ones = ({file: digest for file, digest in some.items() if file.split("/")[0] == place}
                                  for some in (left, before, after))  # fmt: skip
            if there not in whole_ones and not faults:
                faults.append(f"{where}: some files of {place} are new, others not")
        if code == 0 and number < calls:
            continue  # threads, or a cache, made fewer calls this time
        with contextlib.suppress(FileNotFoundError):
            warm(run, folder) if left == before else clean(folder)
        if [place.name for place in folder.rglob(f"{PRIVATE}*") if place.name in private and left == before]:
            faults.append(f"{where}: {private[0]} is not taken away by the next run")
        print(f"\r{name}: {number} of {calls}, {len(faults)} faults", end="", file=sys.stderr, flush=True)
    return len(numbers), calls, faults


def fresh(prepare: Callable[[Path], None], folder: Path) -> None:
    """The folder as it is before the command."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prepare(folder)


def clean(folder: Path) -> None:
    """Let the writer take away what dead runs left."""
    with written_whole(folder / "another") as place:
        place.write_text("x")
    (folder / "another").unlink()


def contents(folder: Path) -> dict[str, str]:
    """Files by name, outside private folders: the digest of each, and what a link points to."""
    found = {}
    for file in folder.rglob("*"):
        path = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(PRIVATE) or part == "__pycache__" for part in path.parts):
            data = file.read_bytes()
            if path.suffix == ".json":
                with contextlib.suppress(ValueError):  # one that is torn counts as it is
                    data = json.dumps(_untimed(json.loads(data))).encode()
            found[str(path)] = hashlib.sha256(data).hexdigest()[:16]
    return found


def _untimed(value: Any) -> Any:
    """What a report says without times, which differ from run to run."""
    if isinstance(value, dict):
        return {key: _untimed(one) for key, one in value.items() if key not in ("ms", "seconds", "latency")}
    return value


def child(run: Callable[[Path], Any], folder: Path, wait: int) -> int:
    """Fork a child that runs the command once something comes through a pipe."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        os.read(wait, 1)
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(sink, stream)
        torch.set_num_threads(1)
        code = int(run(folder) or 0)
    finally:
        os._exit(code)


def warm(run: Callable[[Path], Any], folder: Path) -> None:
    """Run the command without a tracer."""
    read, write = os.pipe()
    number = child(run, folder, read)
    os.write(write, b"x")
    os.waitpid(number, 0)
    os.close(read)
    os.close(write)


def traced(run: Callable[[Path], Any], folder: Path, killed: str | None) -> tuple[int, list[str]]:
    """Run the command under strace, killed at a call; its exit code, or minus the signal, and its calls."""
    read, write = os.pipe()
    process = child(run, folder, read)
    calls, log = ",".join(CALLS), folder.parent / "strace.log"
    inject = ["-e", f"inject={killed}"] if killed else []
    command = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", *inject, "-p", str(process)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    status = Path(f"/proc/{process}/status")
    while not re.search(r"TracerPid:\s+[1-9]", status.read_text()):
        time.sleep(0.01)
        assert tracer.poll() is None, tracer.stderr and tracer.stderr.read()
    os.write(write, b"x")
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    tracer.wait()
    os.close(read)
    os.close(write)
    lines = [line for line in log.read_text().splitlines() if re.match(r"\d+ +\w+\(", line)]
    return code, [re.sub(r"^\d+ +", "", line)[:80] for line in lines]


def nothing(folder: Path) -> None:
    """No file."""


def packed(folder: Path) -> None:
    """The embedded detector as a .y5z file."""
    shutil.copyfile(_packed(), folder / "x.y5z")


_kept: list[Path] = []


def _packed() -> Path:
    if not _kept:
        place = Path(tempfile.mkdtemp(prefix="yolov5-prune-")) / "x.y5z"
        subprocess.run([sys.executable, "-m", "yolov5_prune_plugin", "compress", str(WEIGHTS), "-o", str(place),
                        "--lossless", "--coder", "huffman"], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        _kept.append(place)
    return _kept[0]


def checkout(folder: Path) -> None:
    """The scripts of a checkout."""
    script = 'import argparse\n\n\nif __name__ == "__main__":\n    pass\n'
    for path in ("models/yolo.py", "utils/general.py", "val.py", "train.py", "detect.py", "segment/val.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(script)


def reported(folder: Path) -> None:
    """An older report."""
    for name in ("layers.csv", "layers.png", "report.json"):
        (folder / name).write_text("old")


def report(folder: Path) -> None:
    """Write a report over an older one."""
    from yolov5_prune_plugin.reporting.run_folder import text_of, write_report

    write_report(folder / "new", {name: text_of("new\n") for name in ("layers.csv", "layers.png", "report.json")})


def saved_pair(folder: Path) -> None:
    """An older last.pt with its side-car."""
    checkpoints(folder, 1.0)


def checkpoints(folder: Path, value: float = 2.0) -> None:
    """Write best.pt, and last.pt with its side-car, as a training does."""
    from yolov5_prune_plugin.yolov5.checkpoints import sidecar

    content = {"model": torch.full((50_000,), value)}
    with written_whole(folder / "best.pt") as place:
        torch.save(content, place)
    sidecar.save_pair(
        folder / "last.pt", lambda place: torch.save(content, place), {"mask": torch.ones(9)}, {"x": value}
    )


def _cli(*words: str) -> Callable[[Path], int]:
    return lambda folder: cli.main([word.replace("DIR", str(folder)) for word in words])


COMMANDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "compress": (nothing, _cli("compress", str(WEIGHTS), "-o", "DIR/a.y5z", "--lossless", "--coder", "huffman")),
    "decompress": (packed, _cli("decompress", "DIR/x.y5z", "-o", "DIR/a.pt")),
    "inspect": (packed, _cli("inspect", "DIR/x.y5z", "--png", "DIR/a.png", "--html", "DIR/a.html")),
    "slim": (nothing, _cli("slim", str(WEIGHTS), "--target", "params=0.9", "-o", "DIR/a.pt")),
    "import": (nothing, _cli("import", str(WEIGHTS), "-o", "DIR/a.pt", "--names", "a,b,c,d")),
    "patch": (checkout, _cli("patch", "DIR")),
    "report": (nothing, report),
    "training": (saved_pair, checkpoints),
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
