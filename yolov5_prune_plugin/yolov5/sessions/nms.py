"""Notices when upstream's non-maximum suppression ran into its time limit and left images without detections."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

MESSAGE = "NMS time limit"
SPEAKERS = ("print", "LOGGER")  # v6.0 prints, later releases warn; the logger may be silent (YOLOV5_VERBOSE=false)


class TimeLimit:
    """Counts the batches in which images were dropped.

    Upstream stops, with a message, after the image it was at; the images behind it keep the empty result they started
    with. So images were dropped exactly if the message came and the last image of the batch has no detections.

    Attributes:
        dropped: Batches with dropped images since it was last set to 0.
    """

    def __init__(self) -> None:
        self.dropped = 0

    def watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap upstream's function: the same detections, and ``dropped`` is counted."""
        names = getattr(inspect.unwrap(original), "__globals__", {})

        @functools.wraps(original)
        def non_max_suppression(*args: Any, **kwargs: Any) -> Any:
            with _overheard(names) as heard:
                detections = original(*args, **kwargs)
            self.dropped += bool(heard) and len(detections) > 0 and len(detections[-1]) == 0
            return detections

        return non_max_suppression


class Labels:
    """Remembers the sizes of a run folder's label files: upstream appends to them, so a repeat would double them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "labels"
        self._sizes = {file: file.stat().st_size for file in self._folder.glob("*.txt")}

    def restore(self) -> None:
        """Remove what was appended since, and new files."""
        for file in self._folder.glob("*.txt"):
            if file not in self._sizes:
                file.unlink()
            elif file.stat().st_size > self._sizes[file]:
                with open(file, "r+b") as stream:
                    stream.truncate(self._sizes[file])


@contextmanager
def _overheard(names: dict[str, Any]) -> Iterator[list[str]]:
    """What is said through the speakers of a module meanwhile, if it is the message; it is said all the same."""
    heard: list[str] = []
    with ExitStack() as stack:
        for name in SPEAKERS:
            if name in names:
                stack.callback(names.__setitem__, name, names[name])
            else:
                stack.callback(names.pop, name, None)
            if name in names or name == "print":
                names[name] = _Speaker(names.get(name, print), heard)
        yield heard


class _Speaker:
    """Stands for ``print`` or a logger."""

    def __init__(self, real: Any, heard: list[str]) -> None:
        self._real, self._heard = real, heard

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._listen(args)
        return self._real(*args, **kwargs)

    def warning(self, *args: Any, **kwargs: Any) -> Any:
        self._listen(args)
        return self._real.warning(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _listen(self, args: tuple[Any, ...]) -> None:
        self._heard += [text for text in map(str, args) if MESSAGE in text]
