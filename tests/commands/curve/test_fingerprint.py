"""What decides a measurement changes its fingerprint; what does not, does not."""

import os
from pathlib import Path

from yolov5_prune_plugin.commands.curve import fingerprint
from yolov5_prune_plugin.plugin_api.manager import load_plugins


def test_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = fingerprint.of_code([tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hook.py").write_text("1")
    assert fingerprint.of_code([tmp_path]) == before
    (tmp_path / "a.py").write_text("2")
    assert fingerprint.of_code([tmp_path]) != before


def test_our_own_package_counts() -> None:
    names = {folder.name for folder in fingerprint.folders_of(load_plugins())}
    assert "yolov5_prune_plugin" in names


def test_images_and_labels(tmp_path: Path) -> None:
    for place in ("images/val", "labels/val"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "images" / "val" / "a.jpg").write_text("1")
    (tmp_path / "labels" / "val" / "a.txt").write_text("0 .5 .5 .1 .1")
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\nval: images/val\n")
    before = fingerprint.of_images(data, tmp_path / "elsewhere")
    (tmp_path / "labels" / "val.cache").write_text("upstream's")
    (tmp_path / "labels" / "val" / "b.cache").write_text("upstream's")
    assert fingerprint.of_images(data, tmp_path) == before
    for file in ("labels/val/a.txt", "images/val/a.jpg"):
        os.utime(tmp_path / file, ns=(1, 1))
        after = fingerprint.of_images(data, tmp_path)
        assert after != before
        before = after
    assert fingerprint.of_images(None, tmp_path) is None
    (tmp_path / "list.txt").write_text("./images/val/a.jpg\n")
    data.write_text(f"path: {tmp_path}\nval: list.txt\n")
    listed = fingerprint.of_images(data, tmp_path)
    (tmp_path / "images" / "val" / "a.jpg").write_text("12")
    assert fingerprint.of_images(data, tmp_path) != listed


def test_device() -> None:
    assert fingerprint.device()
