"""The files of a report, in the folder of its run: each whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole

Writer = Callable[[Path], Any]  # writes a file under the name that it is given


def write_report(folder: Path, files: Mapping[str, Writer], what: str = "the report") -> None:
    """Write files into a folder, which is made if it is missing.

    Args:
        folder: Where to.
        files: By name; written in this order, over older ones.
        what: Name of it in errors.

    Raises:
        PruneError: If one can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in files.items():
            with written_whole(folder / name) as file:
                write(file)
    except OSError as error:
        raise PruneError(f"{what} cannot be written to {folder}: {error}") from error


def json_of(content: Any) -> Writer:
    """Make what writes plain values as JSON, indented."""
    return text_of(json.dumps(content, indent=2) + "\n")


def text_of(text: str) -> Writer:
    """Make what writes a text in UTF-8."""
    return lambda file: file.write_text(text, encoding="utf-8")


def csv_of(frame: Any) -> Writer:
    """Make what writes a pandas DataFrame as CSV without its index."""
    return lambda file: frame.to_csv(file, index=False)
