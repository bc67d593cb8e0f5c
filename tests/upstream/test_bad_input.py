"""Wrong input ends in one clear line that names the flag or file, without a traceback and with nothing half-written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments
from yolov5_prune_plugin.files import PRIVATE

pytestmark = pytest.mark.upstream


def lines(printed: str) -> list[str]:
    """Our error lines."""
    return [line for line in printed.splitlines() if "error:" in line]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--prune", "1"], "--prune: sparsity must be"),
        (["--prune", "1.5"], "got '1.5'"),
        (["--prune", "-0.1"], "got '-0.1'"),
        (["--prune", "nan"], "got 'nan'"),
        (["--prune", "abc"], "got 'abc'"),
        (["--prune"], "--prune: expected one argument"),
        (["--prune", "0.3", "--prune-method", "taylor"], "must be one of magnitude, random, obs, got 'taylor'"),
        (["--prune", "0.3", "--prune-distribution", "even"], "invalid choice: 'even'"),
        (["--prune", "0.5", "--prune-granularity", "4:2"], "such as 2:4, got '4:2'"),
        (["--prune", "0.5", "--prune-granularity", "row"], "got 'row'"),
        (["--prune", "0.3", "--prune-granularity", "2:4"], "drops exactly 0.5"),
        (["--prune", "0.5", "--prune-granularity", "2:4", "--prune-distribution", "global"], "must be uniform"),
        (["--prune", "0.3", "--prune-amounts", "a.yaml"], "--prune S and --prune-amounts FILE each say how much"),
        (["--prune", "0.3", "--prune-budget", "2"], "leave out all but one"),
        (["--prune-budget", "2", "--prune-amounts", "a.yaml"], "leave out all but one"),
        (["--prune-amounts", "gone.yaml"], "--prune-amounts gone.yaml: cannot be read"),
        (["--prune-amounts", "text.pt"], "--prune-amounts text.pt: holds a scalar, not a mapping"),
        (
            ["--prune-amounts", "a.yaml"],
            "--prune-amounts a.yaml: no Conv2d weight is called 'model.0.conv.wieght'; nearest",
        ),
        (["--prune-amounts", "a.yaml", "--prune-distribution", "global"], "leave out --prune-distribution"),
        (["--prune-amounts", "a.yaml", "--prune-granularity", "2:4"], "drops the same of every layer"),
        (["--prune-amounts", "b.yaml", "--prune-exclude", "model.0.*"], "is left alone: excluded by 'model.0.*'"),
        (["--prune-budget", "0"], "--prune-budget: points must be a number above 0 and below 100"),
        (["--prune-budget", "100"], "got '100'"),
        (["--prune-budget", "nan"], "got 'nan'"),
        (["--prune-budget", "2", "--prune-budget-step", "0"], "--prune-budget-step: step must be a number above 0"),
        (["--prune-budget", "2", "--prune-granularity", "2:4"], "the pattern sets the sparsity"),
        (["--prune-budget", "2", "--task", "speed"], "--prune-budget 2 --task speed"),
        (["--prune-budget", "2", "--prune-save", "here.pt"], "--prune-save here.pt: exists already"),
        (["--prune-budget-step", "0.1"], "--prune-budget-step needs --prune-budget"),
        (["--prune-seed", "1"], "--prune-seed needs --prune S"),
        (["--prune", "0.3", "--prune-seed", "x"], "--prune-seed: must be a whole number from 0 to 4294967295, got 'x'"),
        (
            ["--prune", "0.3", "--prune-seed", "-1"],
            "--prune-seed: must be a whole number from 0 to 4294967295, got '-1'",
        ),
        (["--prune", "0.3", "--prune-seed", "1" + 30 * "0"], "--prune-seed: must be a whole number from 0 to"),
        (["--prune", "0.3", "--weights", "pipe.pt"], "--weights pipe.pt: cannot be read: is no regular file"),
        (["--prune", "0.3", "--project", "here.pt/runs"], "--project here.pt/runs/val: here.pt is no folder"),
        (["--prune", "0.3", "--weights", "m.onnx"], "--weights m.onnx: an exported model"),
        (["--prune", "0.3", "--weights", "m.torchscript"], "--weights m.torchscript: an exported model"),
        (["--prune", "0.3", "--weights", "m.engine"], "--weights m.engine: an exported model"),
        (["--prune", "0.3", "--weights", "gone.pt"], "--weights gone.pt: no such file"),
        (["--prune", "0.3", "--weights", "short.pt"], "--weights short.pt: is cut short"),
        (["--prune", "0.3", "--weights", "text.pt"], "--weights text.pt: is not a PyTorch checkpoint"),
        (["--prune", "0.3", "--prune-include", "model.99.*"], "--prune-include: no Conv2d weight matches 'model.99.*'"),
        (["--prune", "0.3", "--prune-exclude", "*"], "none of the 60 Conv2d weights is left"),
        (["--prune", "0.3", "--prune-save", "here.pt"], "--prune-save here.pt: exists already"),
        (["--prune", "0.3", "--prune-save", "."], "--prune-save .: is a directory"),
        (["--prune", "0.3", "--prune-save", "no/where.pt"], "the folder no does not exist"),
        (["--prune", "0.3", "--prune-save", "/proc/p.pt"], "--prune-save /proc/p.pt"),
    ],
)
def test_flags(clone: Release, shapes: Path, tmp_path: Path, flags: list[str], says: str) -> None:
    """One line each."""
    (tmp_path / "short.pt").write_bytes(WEIGHTS.read_bytes()[:100_000])
    (tmp_path / "text.pt").write_text("not a model")
    (tmp_path / "here.pt").write_text("mine")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "a.yaml").write_text("model.0.conv.wieght: 0.3")
    (tmp_path / "b.yaml").write_text("model.0.conv.weight: 0.3")
    printed = clone.launch("val.py", *val_arguments(shapes, tmp_path), *flags, cwd=tmp_path, ok=False)
    assert len(lines(printed)) == 1, printed
    assert says in lines(printed)[0]
    assert (tmp_path / "here.pt").read_text() == "mine"
    assert not list(tmp_path.glob(f"{PRIVATE}*"))


def test_full_disk(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """A file that can't be written to its end leaves nothing behind."""
    target = tmp_path / "p.pt"
    code = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000));" \
           "runpy.run_module('yolov5_prune_plugin', run_name='__main__', alter_sys=True)"  # fmt: skip
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    printed = run("-c", code, "run", clone.folder / "val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3,
                  "--prune-save", target, cwd=tmp_path, ok=False)  # fmt: skip
    assert f"--prune-save {target}: cannot be written" in lines(printed)[0]
    assert not target.exists()
    assert not list(tmp_path.glob(f"{PRIVATE}*"))


def test_patch_killed_in_the_middle(clone: Release, tmp_path: Path) -> None:
    """kill -9 at any moment leaves every script whole, and the next patch or revert finishes the job."""
    import shutil

    folder = tmp_path / "yolov5"
    shutil.copytree(clone.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = {file: file.read_bytes() for file in folder.rglob("*.py")}
    code = "import os, time, sys; from yolov5_prune_plugin.cli import main; real = os.replace\n" \
           "def slow(a, b): real(a, b); print('one', flush=True); time.sleep(60)\n" \
           "os.replace = slow; main(['patch', sys.argv[1]])"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sum(file.read_bytes() != content for file, content in before.items()) == 1
    run("-m", "yolov5_prune_plugin", "patch", folder, cwd=tmp_path)
    run("-m", "yolov5_prune_plugin", "patch", "--check", folder, cwd=tmp_path)
    run("-m", "yolov5_prune_plugin", "patch", "--revert", folder, cwd=tmp_path)
    assert {file: file.read_bytes() for file in folder.rglob("*.py")} == before
    assert not list(folder.rglob(".*yolov5-prune*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["patch", "."], "is no YOLOv5 checkout"),
        (["patch", "gone"], "patch gone: no such folder"),
        (["run", "gone.py"], "run gone.py: no such file"),
        (["run", "yolov5.gone"], "neither a file nor an installed module"),
        (["inspect", "gone.y5z"], "gone.y5z: cannot be read: No such file"),
        (["compress", "linear.pt", "-o", "x.y5z"], "linear.pt: has a Linear without a convolution"),
        (["bench", "linear.pt"], "linear.pt: has a Linear without a convolution"),
        (
            ["compress", str(WEIGHTS), "-o", "x.y5z", "--bits", "auto", "--budget", "1", "--data", "missing.yaml"],
            "--data missing.yaml: no such file, here or in ",
        ),
        (["run", "yolov5.train", "--resume", "text.pt"], "--resume text.pt: is not a PyTorch checkpoint"),
        (["run", "yolov5.train", "--dns", "--resume", "missing.pt"], "--resume missing.pt: no such file"),
        (["run", "--seams", "gone.yaml", "{clone}/val.py", "--prune", "0.3"], "--seams gone.yaml: cannot be read"),
    ],
)
def test_commands(clone: Release, tmp_path: Path, arguments: list[str], says: str) -> None:
    """The command yolov5-prune itself."""
    (tmp_path / "text.pt").write_text("not a model")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "linear.pt")
    filled = [argument.format(clone=clone.folder) for argument in arguments]
    printed = run("-m", "yolov5_prune_plugin", *filled, cwd=tmp_path, ok=False)
    assert len(lines(printed)) == 1, printed
    assert says in lines(printed)[0]
