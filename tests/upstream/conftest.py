"""YOLOv5 releases to run for real: PyPI ones always, git ones where $YOLOV5_MIRROR names a bare clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.upstream.clone import clone_like
from tests.upstream.nursery import Nursery
from yolov5_prune_plugin.commands.demo import lay_out
from yolov5_prune_plugin.files import data_dir

OLD_WHEELS = ("6.2.3", "6.1.9", "6.0.7")
TAGS = ("v6.0", "v6.1", "v6.2", "v7.0", "master")
WEIGHTS = data_dir() / "shapes-yolov5n.pt"
MIRROR = os.environ.get("YOLOV5_MIRROR")

MAKE = """
import sys; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
import torch
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
torch.manual_seed(0)
seg = SegmentationModel({folder!r} + "/models/segment/yolov5n-seg.yaml", nc=4)
seg.nc, seg.names = 4, dict(enumerate("abcd"))
torch.save({{"model": seg.half()}}, sys.argv[1] + "/seg.pt")
cls = ClassificationModel(model=DetectionModel({folder!r} + "/models/yolov5n.yaml"), nc=3, cutoff=10)
cls.names = dict(enumerate("abc"))
torch.save({{"model": cls.half()}}, sys.argv[1] + "/cls.pt")
"""


@dataclass
class Release:
    """One YOLOv5 that scripts can be run of, as files (``folder``) or as a package (``python_path`` or installed)."""

    name: str
    folder: Path | None = None
    python_path: list[Path] = field(default_factory=list)

    def has(self, script: str) -> bool:
        """Whether the release has the script."""
        if self.folder:
            return (self.folder / script).is_file()
        roots = [path / "yolov5" for path in self.python_path] or list(map(Path, _installed()))
        return any((root / script).is_file() for root in roots)

    def launch(self, script: str, *arguments: object, cwd: Path, ok: bool = True, **env: str) -> str:
        """``yolov5-prune run``; returns what it printed."""
        target = str(self.folder / script) if self.folder else "yolov5." + script[:-3].replace("/", ".")
        return run("-m", "yolov5_prune_plugin", "run", target, *arguments, cwd=cwd, ok=ok, path=self.python_path, **env)


def run(*arguments: object, cwd: Path, ok: bool = True, path: list[Path] | None = None, **env: str) -> str:
    """Run this Python with arguments; check that it succeeds, or that it fails without a traceback."""
    search = [*map(str, path or []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search)), "WANDB_MODE": "disabled",
                   "YOLO_CONFIG_DIR": str(cwd), "YOLOV5_CONFIG_DIR": str(cwd), "COLUMNS": "200", **env}  # fmt: skip
    with tempfile.NamedTemporaryFile("rb") as output:
        code = _nursery().run([*map(str, arguments)], cwd, environment, Path(output.name), timeout=900)
        printed = Path(output.name).read_text()
    assert (code == 0) == ok, f"exit {code}:\n{printed[-5000:]}"
    assert ok or "Traceback" not in printed, printed[-5000:]
    return printed


def install_package_of(page: str, place: Path, names: set[str], lines: int) -> Path:
    """Install the package whose files stand on a page of the docs, as they stand there, with pip.

    Args:
        page: File in docs/.
        place: An empty folder.
        names: The files that it must have.
        lines: What it is shorter than.

    Returns:
        The folder to put on the path.
    """
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    files = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL))
    assert names <= files.keys()
    assert sum(text.count("\n") for text in files.values()) < lines
    package, site = place / "package", place / "site"
    package.mkdir()
    for name, text in files.items():
        (package / name).write_text(text)
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", site, package, cwd=place)
    return site


@lru_cache
def _nursery() -> Nursery:
    return Nursery()


def _installed() -> list[str]:
    spec = find_spec("yolov5")
    return list(spec.submodule_search_locations or []) if spec else []


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """v7.0 as a clone has it, made from PyPI 7.0.14; not patched, shared by tests that leave it so."""
    if not _installed():
        pytest.skip("needs the PyPI package yolov5")
    return Release("clone", clone_like(Path(_installed()[0]), tmp_path_factory.mktemp("clone") / "yolov5"))


def names() -> list[str]:
    """All releases under test here."""
    return ["7.0.14", *OLD_WHEELS, *(TAGS if MIRROR else ())]


@pytest.fixture(scope="session", params=names())
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Each release in turn."""
    name = request.param
    if name in TAGS:
        folder = tmp_path_factory.mktemp(name) / "yolov5"
        subprocess.run(["git", "clone", "-q", "-b", name, str(MIRROR), str(folder)], check=True)
        return Release(name, folder)
    if name in OLD_WHEELS:
        place = Path(os.environ.get("YOLOV5_RELEASES", Path(sys.prefix) / "releases")) / name
        if not (place / "yolov5").is_dir():
            pytest.skip(f"yolov5=={name} is not in {place}; make test puts it there")
        return Release(name, python_path=[place])
    if not _installed():
        pytest.skip("needs the PyPI package yolov5")
    return Release(name)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data set, cut to 16 images each, as a file for --data; shared by tests that do not train on it."""
    folder = tmp_path_factory.mktemp("shapes")
    data = lay_out(folder)
    for split in ("train", "val"):
        for file in sorted((folder / "shapes" / "images" / split).iterdir())[16:]:
            file.unlink()
    return data


@pytest.fixture(scope="session")
def training_shapes(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its own for tests that train: train.py keeps a cache beside the labels of train."""
    folder = tmp_path_factory.mktemp("training")
    shutil.copytree(shapes.parent / "shapes", folder / "shapes", ignore=shutil.ignore_patterns("*.cache"))
    content = yaml.safe_load(shapes.read_text())
    (folder / "shapes.yaml").write_text(yaml.safe_dump({**content, "path": str(folder / "shapes")}, sort_keys=False))
    return folder / "shapes.yaml"


@pytest.fixture(autouse=True)
def _no_caches(shapes: Path, training_shapes: Path) -> None:
    """Releases hash labels in different ways, and PyPI 6.x stops at a cache that another one wrote."""
    for data in (shapes, training_shapes):
        for file in data.parent.rglob("*.cache"):
            file.unlink()


@pytest.fixture(scope="session")
def others(clone: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained segmenter and an untrained classifier, and data for both."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("others")
    run("-c", MAKE.format(folder=str(clone.folder)), folder, cwd=folder)
    rng = np.random.default_rng(0)
    for place in ("images/val", "labels/val", *(f"cls/{split}/{c}" for split in ("train", "val") for c in "abc")):
        (folder / place).mkdir(parents=True)
        if not place.startswith("labels"):
            for i in range(2):
                cv2.imwrite(str(folder / place / f"{i}.jpg"), rng.integers(0, 255, (64, 64, 3), np.uint8))
                (folder / "labels/val" / f"{i}.txt").write_text("1 0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8\n") if (
                    folder / "labels/val"
                ).is_dir() else None
    (folder / "seg.yaml").write_text(
        f"path: {folder}\ntrain: images/val\nval: images/val\nnc: 4\nnames: [a, b, c, d]\n"
    )
    return folder


@pytest.fixture(scope="session")
def polygons(training_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes with their boxes as polygons."""
    folder = tmp_path_factory.mktemp("polygons")
    content = yaml.safe_load(training_shapes.read_text())
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for image in (Path(content["path"]) / "images" / split).iterdir():
            (folder / "images" / split / image.name).write_bytes(image.read_bytes())
            lines = []
            label = Path(content["path"]) / "labels" / split / f"{image.stem}.txt"
            for line in label.read_text().splitlines():
                kind, x, y, w, h = line.split()[0], *map(float, line.split()[1:])
                a, b, c, d = x - w / 2, y - h / 2, x + w / 2, y + h / 2
                lines.append(f"{kind} {a} {b} {c} {b} {c} {d} {a} {d}")
            (folder / "labels" / split / f"{image.stem}.txt").write_text("\n".join(lines))
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({**content, "path": str(folder)}))
    return file


@pytest.fixture(scope="session")
def crops(training_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of crops, as a classifier wants them."""
    import cv2

    folder = tmp_path_factory.mktemp("crops")
    images = sorted((Path(yaml.safe_load(training_shapes.read_text())["path"]) / "images" / "train").iterdir())
    for split in ("train", "val"):
        for number, image in enumerate(images[:8]):
            place = folder / split / ("left" if number % 2 else "right") / image.name
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), cv2.imread(str(image))[:64, :64])
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with official weights and real images, where there is one."""
    place = Path(os.environ.get("YOLOV5_PRUNE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (place / "weights" / "yolov5n.pt").is_file():
        pytest.skip(f"no official weights at {place}")
    return place


def val_arguments(data: Path, folder: Path, weights: Path = WEIGHTS) -> list[object]:
    """Arguments of val.py that every release knows."""
    return ["--weights", weights, "--data", data, "--batch-size", 8, "--imgsz", 320, "--device", "cpu",
            "--project", folder, "--name", "val", "--exist-ok"]  # fmt: skip
