"""Finds the main guard of a script in its syntax tree; a search of the text would find one in a docstring too."""

from __future__ import annotations

import ast
from pathlib import Path

from yolov5_prune_plugin.errors import UpstreamError


def main_guard(file: Path, source: bytes) -> tuple[ast.Module, int]:
    """Parse a script and find its main guard.

    Args:
        file: Its name, for messages.
        source: Its content.

    Returns:
        The tree, and the index in its body of ``if __name__ == "__main__":``.

    Raises:
        UpstreamError: If it is no Python of this version, or has no main guard at its top level.
    """
    try:
        tree = ast.parse(source, str(file))
    except (SyntaxError, ValueError) as error:
        raise UpstreamError(f"{file} cannot be parsed as Python: {error}") from error
    for index, node in enumerate(tree.body):
        if isinstance(node, ast.If) and _is_guard(node.test):
            return tree, index
    raise UpstreamError(
        f"{file} has no main guard (if __name__ == '__main__':), so there is no place for the activation"
    )


def _is_guard(test: ast.expr) -> bool:
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
        return False
    names = {side.id for side in (test.left, *test.comparators) if isinstance(side, ast.Name)}
    texts = {side.value for side in (test.left, *test.comparators) if isinstance(side, ast.Constant)}
    return names == {"__name__"} and texts == {"__main__"}


def first_line(tree: ast.Module) -> int:
    """Number of the first line that code may be put before: behind the docstring and the ``__future__`` imports."""
    for index, node in enumerate(tree.body):
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
    return min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
