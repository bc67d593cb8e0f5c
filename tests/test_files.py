"""A file is whole or not there, whatever happens in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import check_new_file, written_whole


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_file_appears_when_the_block_is_done(tmp_path: Path, overwrite: bool) -> None:
    file = tmp_path / "layers.csv"
    with written_whole(file, overwrite=overwrite) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        assert not file.exists()
    assert file.read_text() == "whole"
    assert listed(tmp_path) == ["layers.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")

    def write() -> None:
        with written_whole(file) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert file.read_text() == "old"
    assert listed(tmp_path) == ["report.json"]


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")
    with written_whole(file) as temporary:
        temporary.write_text("new")
    assert file.read_text() == "new"
    assert listed(tmp_path) == ["report.json"]


@pytest.mark.parametrize("links", [True, False])
def test_an_existing_file_is_not_replaced_if_so_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """With hard links and on a file system without them; the file appears while the block runs."""
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    file = tmp_path / "model.pt"

    def write() -> None:
        with written_whole(file, overwrite=False) as temporary:
            temporary.write_text("new")
            file.write_text("somebody else's")

    with pytest.raises(FileExistsError):
        write()
    assert file.read_text() == "somebody else's"
    assert listed(tmp_path) == ["model.pt"]


def test_a_new_file_needs_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    with written_whole(tmp_path / "model.pt", overwrite=False) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "model.pt").read_text() == "new"
    assert listed(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(OSError):
        with written_whole(tmp_path / "model.pt", overwrite=overwrite) as temporary:
            temporary.write_text("new")
    assert (tmp_path / "model.pt").is_dir()
    assert listed(tmp_path) == ["model.pt"]


def test_a_block_that_writes_nothing_makes_no_file(tmp_path: Path) -> None:
    for overwrite in (True, False):
        with pytest.raises(FileNotFoundError):
            with written_whole(tmp_path / "model.pt", overwrite=overwrite):
                pass
    assert listed(tmp_path) == []


def test_check_new_file_accepts_what_can_be_written(tmp_path: Path) -> None:
    check_new_file("--prune-save", tmp_path / "model.pt")
    assert listed(tmp_path) == []


def test_check_new_file_names_the_flag_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()
    for file, what in (
        (tmp_path, "is a directory; name a file in it"),
        (tmp_path / "a.pt", "exists already; move it away or choose another name"),
        (tmp_path / "no" / "a.pt", f"the folder {tmp_path / 'no'} does not exist; make it first"),
        (tmp_path / "a.pt" / "b.pt", f"the folder {tmp_path / 'a.pt'} does not exist; make it first"),
    ):
        with pytest.raises(PruneError) as caught:
            check_new_file("--prune-save", file)
        assert str(caught.value) == f"--prune-save {file}: {what}"


def test_check_new_file_refuses_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # chmod does not stop root
    with pytest.raises(PruneError, match=r"a\.pt: the folder .* cannot be written to$"):
        check_new_file("--prune-save", tmp_path / "a.pt")


def no_links(source: Path, target: Path) -> None:
    raise PermissionError("Operation not permitted")
