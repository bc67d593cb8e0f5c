"""The one writer of files: each is whole or not there, others' files stay theirs; and where our own data files are.

A file is written in a private folder of random name beside its place, synced, and then moved in one step. The private
folder says whose it is, so that the next run takes away those of runs that were killed, and no others.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from yolov5_prune_plugin.errors import PruneError

PRIVATE = ".yolov5-prune-"  # how the names of private folders begin
LAST = ".json"  # of files that belong together, moved last and set aside first: where it is, the others are
_begun: set[str] = set()  # folders whose report is this process's


def check_new_file(flag: str, file: Path) -> None:
    """Refuse early what could not be written later.

    Args:
        flag: What the file was given with, for the error.
        file: Where something is to be written.

    Raises:
        PruneError: If the file exists, is a directory, or its folder is missing or can't be written to.
    """
    folder = file.parent
    try:
        if file.is_dir():
            raise PruneError(f"{flag} {file}: is a directory; name a file in it")
        if os.path.lexists(file):
            link = file.is_symlink() and not file.exists()
            what = f"is a symbolic link to {os.readlink(file)}, which does not exist" if link else "exists already"
            raise PruneError(f"{flag} {file}: {what}; move it away or choose another name")
        if not folder.is_dir():
            raise PruneError(f"{flag} {file}: the folder {folder} does not exist; make it first")
    except OSError as error:  # a name that is too long
        raise PruneError(f"{flag} {file}: cannot be written: {error.strerror}; choose another name") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PruneError(f"{flag} {file}: the folder {folder} cannot be written to")


def check_folder(flag: str, folder: Path) -> None:
    """Refuse early a folder for results that can neither be made nor written to.

    Args:
        flag: What it was given with, for the error.
        folder: Need not be there.

    Raises:
        PruneError: If it, or what it would be made in, is no folder or can't be written to.
    """
    there = folder
    try:
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
    except OSError as error:
        raise PruneError(f"{flag} {folder}: cannot be made: {error.strerror}; choose another") from None
    if not there.is_dir():
        raise PruneError(f"{flag} {folder}: {there} is no folder; choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PruneError(f"{flag} {folder}: the folder {there} cannot be written to; choose another")


def open_regular(file: Path) -> BinaryIO:
    """Open a file to read it; a pipe or device, which might never end, is refused at once.

    Raises:
        OSError: If it can't be opened, or is no regular file.
    """
    number = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(file))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is no regular file, but a pipe or device", str(file))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def shown(file: object) -> str:
    """A name as text that every encoding and picture takes: bytes that are no UTF-8 and control characters go."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(file))


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
    """Give a place with the file's name in a private folder; move it to the file if the block succeeds.

    Args:
        file: Final place.
        overwrite: False refuses to replace a file that appeared meanwhile.

    Raises:
        FileExistsError: If ``overwrite`` is False and the file exists.
        OSError: If it can't be written; nothing is left behind.
    """
    with written_all([file], overwrite=overwrite) as places:
        yield places[0]


@contextmanager
def new_file(flag: str, file: Path) -> Iterator[Path]:
    """Give a place that becomes the file if the block succeeds; errors of writing name the flag.

    Args:
        flag: What the file was given with.
        file: Must not exist.

    Raises:
        PruneError: If it can't be written, or is there by now.
    """
    try:
        with written_whole(file, overwrite=False) as place:
            yield place
    except OSError as error:
        raise PruneError(f"cannot be written: {error.strerror or error}; nothing was left there", f"{flag} {file}"
                         ) from error  # fmt: skip


@contextmanager
def written_all(files: Sequence[Path], *, overwrite: bool = True) -> Iterator[list[Path]]:
    """Give a private place for each file; move all of them if the block succeeds, or none.

    Args:
        files: Final places.
        overwrite: False refuses to replace a file that appeared meanwhile.

    Raises:
        FileExistsError: If ``overwrite`` is False and a file exists.
        OSError: If one can't be written; every file is as it was.
    """
    with ExitStack() as stack:
        private = {folder: stack.enter_context(_private(folder)) for folder in dict.fromkeys(f.parent for f in files)}
        places = [private[file.parent] / "new" / file.name for file in files]
        old = [private[file.parent] / "old" / file.name for file in files]
        yield places
        for place in places:
            _sync(place)
        _move_all(places, files, old, overwrite)
        for folder in private:
            _sync(folder)


@contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """Give a private folder; what is in it when the block succeeds is moved into ``folder``, all files or none.

    A folder that was not there comes with its files in one step. In one of an earlier run the older files of these
    names go first, so that files of two runs are never side by side.

    Args:
        folder: Final place; made if it is missing.

    Raises:
        OSError: If something can't be written; the files in ``folder`` are as they were.
    """
    new = not os.path.lexists(folder)
    if new:
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _private(folder.parent if new else folder) as private:
        place = private / "new" / (folder.name if new else "files")
        place.mkdir()
        yield place
        for name in os.listdir(place):
            _sync(place / name)
        _sync(place)
        moved = False
        if new:
            with suppress(OSError):
                os.rename(place, folder)
                moved = True
        if not moved:
            folder.mkdir(exist_ok=True)
            names = sorted(os.listdir(place), key=lambda name: (name.endswith(LAST), name))
            apart = str(folder.resolve()) not in _begun
            each = ([where / name for name in names] for where in (place, folder, private / "old"))
            _move_all(*each, overwrite=True, apart=apart)
            _sync(folder)
        _begun.add(str(folder.resolve()))


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for temporary files where the system has them; one that a kill leaves is taken away later."""
    remove_dead(Path(tempfile.gettempdir()))
    return tempfile.TemporaryDirectory(prefix=f"{PRIVATE}{_owner(os.getpid())}-")


def remove_dead(folder: Path) -> None:
    """Remove from a folder the private folders of this user's processes on this machine that are not there any more."""
    with suppress(OSError):
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.name.startswith(PRIVATE)]
        for entry in found:
            if _is_dead(entry):
                shutil.rmtree(entry.path, ignore_errors=True)


@contextmanager
def _private(folder: Path) -> Iterator[Path]:
    """A new folder in ``folder`` that nobody else can enter, with places for what is new and what was there."""
    remove_dead(folder)
    try:
        private = Path(tempfile.mkdtemp(prefix=f"{PRIVATE}{_owner(os.getpid())}-", dir=folder))
    except OSError as error:
        error.filename = str(folder)
        raise
    try:
        for name in ("new", "old"):
            (private / name).mkdir()
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _move_all(
    places: Sequence[Path], files: Sequence[Path], old: Sequence[Path], overwrite: bool, apart: bool = False
) -> None:
    """Move each place to its file; if one fails, put everything back.

    Args:
        places: In private folders beside the files.
        files: Final places.
        old: In private folders too: where a file waits that is replaced, until all is done.
        overwrite: Whether files may be there.
        apart: Take away all old files before the first new one comes.
    """
    existed, identities = [os.path.lexists(file) for file in files], [_identity(place) for place in places]
    try:
        for file in files:
            if file.is_dir() and not file.is_symlink():
                raise IsADirectoryError(errno.EISDIR, "Is a directory", str(file))
        for aside, file, there in reversed([*zip(old, files, existed)] if len(files) > 1 else []):
            if there and apart:
                os.rename(file, aside)
            elif there and overwrite:
                _keep(file, aside)
        for place, file in zip(places, files):
            if overwrite:
                os.replace(place, file)
            else:
                _move_new(place, file)
    except BaseException:
        if len(files) > 1 or not overwrite:
            _put_back(files, old, existed, identities)
        raise


def _put_back(
    files: Sequence[Path], old: Sequence[Path], existed: Sequence[bool], identities: Sequence[tuple[int, int]]
) -> None:
    """Undo moves: what was there comes back, and what is ours goes."""
    for file, aside, there, identity in zip(files, old, existed, identities):
        if os.path.lexists(aside):
            os.replace(aside, file)
        elif not there and _identity(file) == identity:
            file.unlink()


def _keep(file: Path, aside: Path) -> None:
    try:
        os.link(file, aside, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without hard links
        shutil.copy2(file, aside, follow_symlinks=False)


def _move_new(place: Path, file: Path) -> None:
    """Give a file its final name if that is free, with no moment in between."""
    try:
        os.link(place, file)
        return
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "exists already", str(file)) from None
    except OSError:  # a file system without hard links: the name is taken first, and then what is ours replaced
        pass
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "exists already", str(file)) from None
    try:
        os.replace(place, file)
    except BaseException:
        file.unlink()
        raise


def _identity(file: Path) -> tuple[int, int]:
    try:
        found = os.lstat(file)
    except OSError:
        return -1, -1
    return found.st_dev, found.st_ino


def _sync(place: Path) -> None:
    """Have the disk hold a file before it gets its name; folders only where that can be had."""
    folder = place.is_dir()
    try:
        number = os.open(place, os.O_RDONLY)
    except OSError:
        if folder:
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if not folder and error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(number)


def _is_dead(entry: os.DirEntry[str]) -> bool:
    parts = entry.name[len(PRIVATE) :].split("-")
    if len(parts) != 4 or parts[0] != _machine() or not parts[1].isdecimal():
        return False
    with suppress(OSError):
        ours = not hasattr(os, "geteuid") or entry.stat(follow_symlinks=False).st_uid == os.geteuid()
        return ours and entry.is_dir(follow_symlinks=False) and not _alive(int(parts[1]), parts[2])
    return False


def _owner(process: int) -> str:
    return f"{_machine()}-{process}-{_started(process) or 0}"


def _alive(process: int, started: str) -> bool:
    """Whether the process that began then is still there; if nobody can tell, it is."""
    if sys.platform == "linux":
        now = _started(process)
        return now is not None and (now == started or now == "")
    return True


def _started(process: int) -> str | None:
    """When a process began, in the kernel's ticks; empty if that can't be seen, None if there is no such process."""
    try:
        with open(f"/proc/{process}/stat", "rb") as stream:
            return stream.read().rpartition(b")")[2].split()[19].decode()
    except (FileNotFoundError, ProcessLookupError):
        return None if os.path.isdir("/proc/self") else ""
    except (OSError, IndexError):
        return ""


@functools.cache
def _machine() -> str:
    """Names what a process number is unique in: the machine since it booted, and the container."""
    facts = [os.uname().nodename if hasattr(os, "uname") else ""]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _packaged(name: str) -> Path:
    """A folder of ours: inside the package once installed, beside it in a checkout of ours."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
