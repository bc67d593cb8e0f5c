"""What to do next: commands that are ready to paste."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say_next(console: Console, steps: Mapping[str, str]) -> None:
    """Print commands, each below what it is for; nothing if there are none.

    Args:
        console: Where to.
        steps: Commands by what they are for.
    """
    if not steps:
        return
    console.print("next:")
    for what, command in steps.items():
        console.print(f"  # {what}", style="dim", soft_wrap=True)
        console.print(f"  {command}", soft_wrap=True)


def ours(*words: object) -> str:
    """Write a command line of ours, quoted where the shell needs it.

    Args:
        words: After ``yolov5-prune``.
    """
    return shlex.join(["yolov5-prune", *map(str, words)])
