"""Wheel and sdist: they build, install into a clean environment, and bring patches/ and the demo data along."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from yolov5_prune_plugin.yolov5.seams.seams import load_scripts

ROOT = Path(__file__).parents[1]
SEEN = f"""
from yolov5_prune_plugin.files import data_dir, patches_dir
from yolov5_prune_plugin.yolov5.seams.seams import load_scripts
from yolov5_prune_plugin.files import data_dir
import yolov5_prune_plugin as p
assert "site-packages" in p.__file__, p.__file__
assert len(load_scripts()) == {len(load_scripts())} and (patches_dir() / "shims.yaml").is_file()
assert patches_dir().parent.name == p.__name__
assert (data_dir() / "shapes-yolov5n.pt").stat().st_size < 4_000_000
assert len(list((data_dir() / "shapes" / "images" / "val").glob("*.jpg"))) == 64
print("all there")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and a wheel made from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in tracked.splitlines():
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, source], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_it_installs_into_a_clean_environment(built: Path, tmp_path: Path, pattern: str) -> None:
    """With only what finding the data needs; torch and the rest are the same as here."""
    (package,) = built.glob(pattern)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "pluggy", "pyyaml", "packaging"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", package], check=True)
    done = subprocess.run([python, "-c", SEEN], cwd=tmp_path, capture_output=True, text=True)
    assert "all there" in done.stdout, done.stderr
    command = [tmp_path / "env" / "bin" / "yolov5-prune", "--version"]
    assert "yolov5-prune-plugin 0.1.0" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
