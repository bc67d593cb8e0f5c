"""The terminal: where tables go, and bars of progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from rich.console import Console


def console(width: Optional[int] = 120, quiet: bool = False) -> Console:
    """Make a console that prints texts as they are: no markup, no emoji, no colours of its own.

    Args:
        width: Characters in a line; None takes the terminal's.
        quiet: Print nothing.
    """
    from rich.console import Console

    return Console(width=width, highlight=False, markup=False, emoji=False, quiet=quiet)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on stderr how far work is and how long the rest takes, and go away; nothing but on a terminal.

    Args:
        what: Stands before the bar.
        total: Steps.

    Yields:
        What to call after each step.
    """
    with _progress(what, total, transient=True, only_terminal=True) as advance:
        yield advance


@contextmanager
def lasting_bar(what: str, total: int, shown: bool = True) -> Iterator[Callable[[], None]]:
    """Show on stderr how far work is, and leave the full bar there, also where stderr is no terminal.

    Args:
        what: Stands before the bar.
        total: Steps.
        shown: False shows nothing.

    Yields:
        What to call after each step.
    """
    with _progress(what, total, shown=shown) as advance:
        yield advance


@contextmanager
def _progress(
    what: str, total: int, shown: bool = True, transient: bool = False, only_terminal: bool = False
) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    stderr = Console(stderr=True)
    shown = shown and (stderr.is_terminal or not only_terminal)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=transient, disable=not shown) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
