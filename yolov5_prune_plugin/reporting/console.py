"""The terminal: where tables go, and bars of progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


WIDTH = 120  # characters in a line where there is no terminal and no COLUMNS


def plain_console(quiet: bool = False) -> Console:
    """Make a console as wide as the terminal that prints texts as they are: no markup, no emoji, no colours of its own.

    Args:
        quiet: Print nothing.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, quiet=quiet)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        console.width = WIDTH
    return console


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


def tracked(items: Collection[T], what: str) -> Iterator[T]:
    """Iterate under a ``bar``.

    Args:
        items: What to go through.
        what: Stands before the bar.

    Yields:
        Each item.
    """
    with bar(what, len(items)) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def running_bar(console: Console, total: int) -> Iterator[Callable[[str, int], None]]:
    """Show what runs now, how many of many jobs ended, and the time, below what is printed; nothing but on a terminal.

    Args:
        console: Where to, and where the caller prints.
        total: Jobs.

    Yields:
        What to call with a text on what runs now, and how many jobs ended since the last call.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    doing = TextColumn("{task.fields[doing]}", markup=False)
    columns = (doing, BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    task = progress.add_task("", total=total, doing="")
    with progress:
        yield lambda now, ended: progress.update(task, advance=ended, doing=now)


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
