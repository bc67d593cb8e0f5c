"""Places are tried before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.reporting.run_folder import check_place


def test_a_place_that_will_do(tmp_path: Path) -> None:
    check_place("-o", tmp_path / "a.pt", tmp_path / "a_slim")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file() -> None:
    """It has the right to be written to, as far as the user's rights go."""
    with pytest.raises(PruneError, match=r"^-o /proc/a\.pt: the folder /proc cannot be written to"):
        check_place("-o", Path("/proc/a.pt"))


def test_a_file_in_the_place_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "a_slim").touch()
    with pytest.raises(PruneError, match="which is no folder; move it away"):
        check_place("-o", tmp_path / "a.pt", tmp_path / "a_slim")
