"""One rule for which folder is a YOLOv5."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolov5_prune_plugin.errors import UpstreamError
from yolov5_prune_plugin.yolov5.seams.root import find_root, lacking, package_folders


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with one script in a folder of its own."""
    root = tmp_path / "yolov5"
    for file in ("models/yolo.py", "utils/general.py", "segment/val.py"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_find_root_goes_up_to_models_and_utils(tree: Path) -> None:
    assert find_root(tree / "segment" / "val.py") == tree.resolve()
    assert find_root(tree) == tree.resolve()


def test_find_root_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="it lacks models/ and utils/"):
        find_root(tmp_path)


def test_what_is_lacking_is_named(tree: Path) -> None:
    """Another project may have models/ and utils/ too."""
    assert lacking(tree) == ""
    (tree / "models" / "yolo.py").unlink()
    assert lacking(tree) == "models/yolo.py"
    (tree / "models").rmdir()
    assert lacking(tree) == "models/"
    assert lacking(tree.parent) == "models/ and utils/"


def test_folders_of_a_package() -> None:
    (folder,) = package_folders("pluggy")
    assert (folder / "__init__.py").is_file()
    assert package_folders("no_such_package_at_all") == []
