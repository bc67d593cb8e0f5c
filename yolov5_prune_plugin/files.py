"""Files that are whole or not there, written beside their place and then moved; and where our own data files are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolov5_prune_plugin.errors import PruneError


def check_new_file(flag: str, file: Path) -> None:
    """Refuse early what could not be written later.

    Args:
        flag: What the file was given with, for the error.
        file: Where something is to be written.

    Raises:
        PruneError: If the file exists, is a directory, or its folder is missing or can't be written to.
    """
    if file.is_dir():
        raise PruneError(f"{flag} {file}: is a directory; name a file in it")
    if file.exists():
        raise PruneError(f"{flag} {file}: exists already; move it away or choose another name")
    folder = file.parent
    if not folder.is_dir():
        raise PruneError(f"{flag} {file}: the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PruneError(f"{flag} {file}: the folder {folder} cannot be written to")


def files_under(root: Path, endings: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """Find the files in a folder and below, in the order of their names, outside hidden folders and environments.

    Args:
        root: The folder.
        endings: What their names end with.
    """
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders
                            if not name.startswith(".") and not Path(place, name, "pyvenv.cfg").exists())  # fmt: skip
        yield from (Path(place, name) for name in sorted(names) if name.endswith(endings))


def patches_dir() -> Path:
    """The folder of the YAML files that say what we know of each YOLOv5 release."""
    return _packaged("patches")


def data_dir() -> Path:
    """The folder of the embedded detector and its data set."""
    return _packaged("data")


@contextmanager
def written_whole(file: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Give a temporary name beside the file, with its suffix; move it into place if the block succeeds.

    Args:
        file: Final place.
        overwrite: False refuses to replace a file that appeared meanwhile.

    Raises:
        FileExistsError: If ``overwrite`` is False and the file exists.
        OSError: If it can't be written; nothing is left behind.
    """
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp{file.suffix}")
    try:
        yield temporary
        if overwrite:
            os.replace(temporary, file)
        else:
            _move_new(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _move_new(temporary: Path, file: Path) -> None:
    try:
        os.link(temporary, file)  # fails if the file exists, with no moment in between
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if file.exists():
            raise FileExistsError(f"{file} exists already") from None
        os.replace(temporary, file)


def _packaged(name: str) -> Path:
    """A folder of ours: inside the package once installed, beside it in a checkout of ours."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
