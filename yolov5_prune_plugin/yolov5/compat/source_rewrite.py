"""Changes lines of source files in memory while they are imported; on disk nothing is written, not even a .pyc."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import decode_source
from pathlib import Path
from types import CodeType, ModuleType

from yolov5_prune_plugin.yolov5.compat.shims import Place


def rewrite(source: str, places: Iterable[Place]) -> str:
    """Change the lines of a file's text; line numbers stay.

    Args:
        source: The text.
        places: What to find and replace in each line; those without ``replace`` change nothing.
    """
    lines = source.split("\n")
    for place in places:
        if place.replace is not None:
            lines = [place.find.sub(place.replace, line) for line in lines]
    return "\n".join(lines)


class RewritingFinder:  # no base class: importlib.abc costs more than all the rest of us
    """Finds modules whose files have lines to change, by path: PyPI's yolov5 has them under two module names.

    Attributes:
        places: What changes, by file.
    """

    def __init__(self) -> None:
        self.places: dict[Path, list[Place]] = {}
        self._names: set[str] = set()

    def add(self, file: Path, place: Place) -> None:
        """Have a line of a file changed when it is imported from now on.

        Args:
            file: Resolved path of the file.
            place: What to find and replace.
        """
        self.places.setdefault(file, []).append(place)
        self._names.add(file.parent.name if file.stem == "__init__" else file.stem)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module whose file has lines to change, as the import system asks for it.

        Args:
            fullname: Dotted name of the module.
            path: Where its parent package looks for modules.
            target: The module that is reloaded.

        Returns:
            The spec with our loader; None for every other module.
        """
        if fullname.rpartition(".")[2] not in self._names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        places = self.places.get(Path(spec.loader.path).resolve())
        if places is None:
            return None
        spec.loader = _RewritingLoader(fullname, spec.loader.path, places)
        spec.cached = None
        return spec

    def install(self) -> None:
        """Put the finder before all others of the import system, if it is not there yet."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Forget all files, and remove the finder from the import system."""
        self.places.clear()
        self._names.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _RewritingLoader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, places: list[Place]) -> None:
        super().__init__(fullname, path)
        self._places = places

    def get_code(self, fullname: str) -> CodeType:
        """Compile the changed text; the cache is neither read nor written, as it holds the unchanged one."""
        source = decode_source(self.get_data(self.path))
        return self.source_to_code(rewrite(source, self._places).encode("utf-8"), self.path)
