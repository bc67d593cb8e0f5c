"""The files of a report, in the folder of its run: all of one run, each whole, or none of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import check_new_file, written_all, written_together

Writer = Callable[[Path], Any]  # writes a file under the name that it is given


def check_place(flag: str, file: Path, report: Optional[Path] = None) -> None:
    """Refuse, before any work, what could not be written after it; the folder is tried.

    Args:
        flag: What the file was given with, for errors.
        file: Must not exist.
        report: The folder of a report that goes with it.

    Raises:
        PruneError: If the file exists, or one of the two can't be written.
    """
    check_new_file(flag, file)
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise PruneError(f"{flag} {file}: the folder {file.parent} cannot be written to: {error.strerror}") from None
    if report and report.exists() and not report.is_dir():
        raise PruneError(f"{flag} {file}: its report goes to {report}, which is no folder; move it away")


def write_report(folder: Path, files: Mapping[str, Writer], what: str = "the report") -> None:
    """Write files into a folder, which is made if it is missing: all of them, or none if one can't be written.

    Args:
        folder: Where to.
        files: By name; written over older ones.
        what: Name of it in errors.

    Raises:
        PruneError: If one can't be written.
    """
    try:
        with written_together(folder) as place:
            for name, write in files.items():
                write(place / name)
    except OSError as error:
        raise PruneError(f"{what} cannot be written to {folder}: {error.strerror or error}") from error


def write_new(files: Mapping[str, tuple[Path, Writer]]) -> None:
    """Write files that were asked for by name: all of them, or none, and over no other.

    Args:
        files: Place and writer, by the flag that asked for it.

    Raises:
        PruneError: If one can't be written; it names the flag.
    """
    now = ""
    try:
        with written_all([file for file, _ in files.values()], overwrite=False) as places:
            for (flag, (file, write)), place in zip(files.items(), places):
                now = f"{flag} {file}"
                write(place)
            now = ", ".join(f"{flag} {file}" for flag, (file, _) in files.items())
    except OSError as error:
        raise PruneError(f"cannot be written: {error.strerror or error}; nothing was left there", now) from error


def json_of(content: Any) -> Writer:
    """Make what writes plain values as JSON, indented."""
    return text_of(json.dumps(content, indent=2) + "\n")


def text_of(text: str) -> Writer:
    """Make what writes a text in UTF-8."""
    return lambda file: file.write_text(text, encoding="utf-8", errors="backslashreplace")


def csv_of(frame: Any) -> Writer:
    """Make what writes a pandas DataFrame as CSV without its index."""
    return lambda file: frame.to_csv(file, index=False)
