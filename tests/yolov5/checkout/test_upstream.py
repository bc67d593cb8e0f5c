"""A YOLOv5 that a command is given, and what is said of files that are no checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkout.upstream import Upstream, find_upstream


def test_errors_name_the_file_and_no_flag_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("<html>404</html>")
    torch.save({"other": 1}, tmp_path / "other.pt")
    for name, what in (
        ("no.pt", f"no such file, and no official name such as yolov5n.pt; did you mean {tmp_path}/other.pt?"),
        ("best.onnx", "is an exported model; give the PyTorch weights (.pt) it was made from"),
        (".", "is a directory; name a .pt file in it"),
        ("text.pt", "is not a PyTorch checkpoint (16 bytes); copy or download it again, or give a .pt file"),
        (
            "other.pt",
            "has no model in it (no entry 'model'); give a checkpoint that train.py wrote, or an official one",
        ),
    ):
        with pytest.raises(PruneError) as caught:
            Upstream(tmp_path, "").load(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {what}"


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    """One of another project too, which may have models/ and utils/ of its own."""
    with pytest.raises(PruneError) as caught:
        find_upstream(tmp_path)
    assert str(caught.value) == f"--repo {tmp_path}: is no YOLOv5 checkout: it has no models/ and utils/"
    for folder in ("models", "utils"):
        (tmp_path / folder).mkdir()
    with pytest.raises(PruneError, match=r"it has no models/yolo\.py$"):
        find_upstream(tmp_path)
