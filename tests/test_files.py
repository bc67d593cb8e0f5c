"""A file is whole or not there, whatever happens in between."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from yolov5_prune_plugin import files
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import check_new_file, written_all, written_together, written_whole


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_file_appears_when_the_block_is_done(tmp_path: Path, overwrite: bool) -> None:
    file = tmp_path / "layers.csv"
    with written_whole(file, overwrite=overwrite) as temporary:
        temporary.write_text("whole")
        assert temporary.is_relative_to(tmp_path)
        assert temporary.name == "layers.csv"
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


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_nobody_else_can_enter_the_place_and_its_name_is_new_each_time(tmp_path: Path) -> None:
    seen = set()
    for _ in range(3):
        with written_whole(tmp_path / "a.pt") as place:
            place.write_text("x")
            private = place.parents[1]
            assert private.parent == tmp_path
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            seen.add(private.name)
    assert len(seen) == 3


def test_a_link_is_neither_followed_nor_replaced_by_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "a.pt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PruneError, match=r"a\.pt: is a symbolic link to .*nowhere, which does not exist"):
        check_new_file("-o", tmp_path / "a.pt")
    with pytest.raises(FileExistsError), written_whole(tmp_path / "a.pt", overwrite=False) as place:
        place.write_text("x")
    assert (tmp_path / "a.pt").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_the_longest_name_that_a_folder_takes(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 252 + ".pt")
    check_new_file("-o", file)
    with written_whole(file, overwrite=False) as place:
        place.write_text("x")
    assert file.read_text() == "x"
    with pytest.raises(PruneError, match="File name too long"):
        check_new_file("-o", tmp_path / ("n" * 256))


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("after", [0, 1])
def test_all_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, after: int) -> None:
    """The second move fails; the first file is put back, or goes."""
    (tmp_path / "sub").mkdir()
    places = [tmp_path / "a", tmp_path / "sub" / "b"]
    if overwrite:
        places[0].write_text("old")
    calls = []
    name = "replace" if overwrite else "link"
    move: Callable[..., None] = getattr(os, name)

    def fails(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            if after:
                move(*args)
            raise KeyboardInterrupt
        move(*args)

    monkeypatch.setattr(os, name, fails)

    def write() -> None:
        with written_all(places, overwrite=overwrite) as two:
            for place in two:
                place.write_text("new")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert listed(tmp_path) == (["a", "sub"] if overwrite else ["sub"])
    assert listed(tmp_path / "sub") == []
    assert not overwrite or places[0].read_text() == "old"


def test_a_new_folder_comes_with_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "prune"
    with written_together(folder) as place:
        (place / "layers.csv").write_text("1")
        (place / "report.json").write_text("1")
        assert not folder.exists()
    assert listed(folder) == ["layers.csv", "report.json"]
    assert listed(tmp_path / "run") == ["prune"]
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "run").stat().st_mode)


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_no_file_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    folder = tmp_path / "prune"
    if there:
        folder.mkdir()
        (folder / "layers.csv").write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)

    def write() -> None:
        with written_together(folder) as place:
            (place / "layers.csv").write_text("new")
            (place / "report.json").write_text("new")

    with pytest.raises(OSError, match="No space left"):
        write()
    assert folder.exists() == there
    assert not there or (listed(folder) == ["layers.csv"] and (folder / "layers.csv").read_text() == "old")
    assert listed(tmp_path) == (["prune"] if there else [])


def forked(work: Callable[[], None]) -> int:
    """Do it in a process of its own; its exit code, or minus the signal."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_a_killed_run_left_goes_with_the_next_and_what_lives_stays(tmp_path: Path) -> None:
    def killed() -> None:
        with written_whole(tmp_path / "a") as place:
            place.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(killed) == -signal.SIGKILL
    (left,) = listed(tmp_path)
    others = [tmp_path / name for name in (".a.1.tmp", files.PRIVATE + "mine", left.replace(left[14:22], "00000000"))]
    for other in others:
        other.mkdir()
    with written_whole(tmp_path / "b") as place:
        place.write_text("b")
        assert not (tmp_path / left).exists()
        assert forked(lambda: next(iter([written_whole(tmp_path / "c").__enter__()])).write_text("c")) == 0
        assert place.exists()
    with written_whole(tmp_path / "d") as place:
        place.write_text("d")
    assert listed(tmp_path) == sorted(["b", "d", *(other.name for other in others)])


CALLS = ("mkdir", "link", "replace", "rename", "unlink", "rmdir", "fsync", "open", "scandir")


def each_call(work: Callable[[], None], prepare: Callable[[], None]) -> Iterator[None]:
    """Do the work again and again, killed at its first call into the system, its second, and so on; then to its end."""
    number, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        number += 1
        prepare()

        def counted(stop: int = number) -> None:
            left = [stop]

            def before(call: Callable[..., object]) -> Callable[..., object]:
                def wrapped(*args: object, **keywords: object) -> object:
                    left[0] -= 1
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*args, **keywords)

                return wrapped

            for name in CALLS:
                setattr(os, name, before(getattr(os, name)))
            work()

        code = forked(counted)
        yield
    assert code == 0
    assert number > 8


def test_killed_at_any_call_a_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "a"
    for overwrite in (True, False):

        def work(overwrite: bool = overwrite) -> None:
            with written_whole(file, overwrite=overwrite) as place:
                place.write_text("new")

        def prepare(overwrite: bool = overwrite) -> None:
            file.unlink(missing_ok=True)
            if overwrite:
                file.write_text("old")

        for _ in each_call(work, prepare):
            found = file.read_text() if file.exists() else None
            assert found in (("old", "new") if overwrite else (None, "new"))
        assert listed(tmp_path) == ["a"]


@pytest.mark.parametrize("there", [True, False])
def test_killed_at_any_call_a_report_is_of_one_run(tmp_path: Path, there: bool) -> None:
    """Where report.json is, all files are, and of the same run."""
    folder = tmp_path / "prune"

    def work() -> None:
        with written_together(folder) as place:
            for name in ("layers.csv", "layers.png", "report.json"):
                (place / name).write_text("new")

    def prepare() -> None:
        for file in folder.glob("*"):
            if file.is_file():
                file.unlink()
        if there:
            folder.mkdir(exist_ok=True)
            for name in ("layers.csv", "layers.png", "report.json"):
                (folder / name).write_text("old")
        elif folder.exists():
            folder.rmdir()

    for _ in each_call(work, prepare):
        found = {file.name: file.read_text() for file in folder.glob("[!.]*")}
        assert len(set(found.values())) <= 1
        assert "report.json" not in found or len(found) == 3
        assert there or len(found) in (0, 3)
    assert listed(folder) == ["layers.csv", "layers.png", "report.json"]
