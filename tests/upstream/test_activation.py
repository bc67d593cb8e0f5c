"""The two doors of the activation, on the real scripts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments

pytestmark = pytest.mark.upstream

SCRIPTS = [f"{folder}{script}.py" for folder in ("", "segment/", "classify/") for script in ("val", "train", "predict")]
SCRIPTS = [script for script in SCRIPTS if script != "predict.py"] + ["detect.py", "export.py"]


@pytest.fixture(scope="session")
def patched(clone: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone with the activation in it."""
    folder = tmp_path_factory.mktemp("patched") / "yolov5"
    shutil.copytree(clone.folder, folder)
    printed = run("-m", "yolov5_prune_plugin", "patch", folder, cwd=folder)
    assert printed.count("activated ") == 11
    return folder


def test_patch_is_idempotent_and_reverts_byte_for_byte(clone: Release, tmp_path: Path) -> None:
    """All ten scripts, in and out again."""
    folder = tmp_path / "yolov5"
    shutil.copytree(clone.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def patch(*flags: str, ok: bool = True) -> str:
        return run("-m", "yolov5_prune_plugin", "patch", *flags, folder, cwd=tmp_path, ok=ok)

    assert patch("--check", ok=False).count("not active") == 11
    patch()
    once = {file: file.read_bytes() for file in before}
    assert sum(once[file] != before[file] for file in before) == 11
    assert patch().count("already active") == 11
    assert {file: file.read_bytes() for file in before} == once
    patch("--check")
    patch("--revert")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_our_flags_in_a_group_of_their_own(patched: Path, script: str, tmp_path: Path) -> None:
    """--help of every script, from another working directory; training has flags of its own."""
    printed = run(patched / script, "--help", cwd=tmp_path, path=[patched])  # PyPI's import before they set sys.path
    assert ("One-shot pruning (yolov5-prune-plugin):" in printed) == ("train" not in script)
    assert ("Dynamic Network Surgery (yolov5-prune-plugin):" in printed) == ("train" in script)
    assert ("--prune-baseline" in printed) == ("val" in script)


def test_under_torchrun(patched: Path, shapes: Path, tmp_path: Path) -> None:
    """Two processes: only the first writes and prints."""
    run("-m", "torch.distributed.run", "--nproc_per_node", 2, patched / "val.py", *val_arguments(shapes, tmp_path),
        "--prune", 0.3, "--prune-save", tmp_path / "p.pt", "--workers", 0, cwd=tmp_path)  # fmt: skip
    assert (tmp_path / "p.pt").is_file()
    assert (tmp_path / "val" / "prune" / "report.json").is_file()


def test_package_stays_as_it_is(shapes: Path, tmp_path: Path) -> None:
    """``run yolov5.val`` writes nothing into the package."""
    from importlib.util import find_spec

    package = Path(next(iter(find_spec("yolov5").submodule_search_locations)))
    before = {file: file.stat().st_mtime_ns for file in package.rglob("*.py")}
    Release("7.0.14").launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3, cwd=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in package.rglob("*.py")} == before


def test_every_script_of_every_release_accepts_the_activation(release: Release, tmp_path: Path) -> None:
    """--help works in all scripts that the release has, and shows our flags where a model is used."""
    broken = {("6.2.3", "segment/val.py"), ("6.2.3", "segment/train.py")}  # they call main() without its argument
    for script in SCRIPTS:
        if release.has(script) and (release.name, script) not in broken:
            printed = release.launch(script, "--help", cwd=tmp_path)
            assert "--prune-method" in printed, script


def test_training_accepts_the_activation(release: Release, training_shapes: Path, tmp_path: Path) -> None:
    """One epoch of train.py in every release."""
    release.launch("train.py", "--weights", WEIGHTS, "--data", training_shapes, "--imgsz", 64, "--batch-size", 8,
                   "--epochs", 1, "--workers", 0, "--device", "cpu", "--project", tmp_path, "--name", "t",
                   cwd=tmp_path)  # fmt: skip
    assert (tmp_path / "t" / "weights" / "last.pt").is_file()
