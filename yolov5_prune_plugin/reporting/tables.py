"""Tables that fit the terminal: names are folded in the middle, spare columns go first, no cell is cut to nothing."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

LEAST = 24  # characters of a folded name
GAP = 3  # between columns; the edges take two more


def folded(name: str, width: int) -> str:
    """Shorten a name in its middle: both ends tell it from others.

    Args:
        name: Such as ``model.23.cv1.conv.weight``.
        width: Characters that there are.
    """
    if len(name) <= width:
        return name
    kept = max(0, width - 1)
    return name[: kept - kept // 2] + "…" + (name[-(kept // 2) :] if kept // 2 else "")


@dataclass
class Column:
    """One column of a table.

    Attributes:
        head: Above it.
        kind: ``number`` (to the right, never cut), ``name`` (folded in the middle) or ``text`` (wrapped).
        spare: Order in which columns are left out where the terminal is narrow, from 1; 0 always stays.
        cells: From top to bottom.
    """

    head: str
    kind: str
    spare: int = 0
    cells: list[str] = field(default_factory=list)

    @property
    def least(self) -> int:
        """Characters that it needs."""
        if self.kind == "name":
            return min(self.most, LEAST)
        if self.kind == "text":
            return max((len(word) for cell in [self.head, *self.cells] for word in cell.split()), default=0)
        return max([len(word) for word in self.head.split()] + [len(cell) for cell in self.cells], default=0)

    @property
    def most(self) -> int:
        """Characters that it could use."""
        return max(map(len, [self.head, *self.cells]))


class Table:
    """Rows under columns, as wide as the console that it is printed on."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.columns: list[Column] = []
        self._styles: list[Optional[str]] = []
        self._sections: set[int] = set()

    def column(self, head: str, kind: str = "number", spare: int = 0) -> None:
        """Add a column.

        Args:
            head: Above it.
            kind: As ``Column`` has it.
            spare: As ``Column`` has it.
        """
        self.columns.append(Column(head, kind, spare))

    def row(self, *cells: str, style: Optional[str] = None) -> None:
        """Add a row; missing cells are empty.

        Args:
            cells: One a column.
            style: Of rich, for the whole row.
        """
        for index, column in enumerate(self.columns):
            column.cells.append(cells[index] if index < len(cells) else "")
        self._styles.append(style)

    def section(self) -> None:
        """Draw a line below the last row."""
        self._sections.add(len(self._styles) - 1)

    def fitting(self, width: int) -> list[Column]:
        """Choose the columns that are shown in so many characters."""
        shown = list(self.columns)
        for column in sorted((one for one in self.columns if one.spare), key=lambda one: one.spare):
            if sum(one.least + GAP for one in shown) - 1 <= width:
                break
            shown.remove(column)
        return shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        shown = self.fitting(options.max_width)
        yield self._made(shown, options.max_width)
        gone = [column.head for column in self.columns if column not in shown]
        if gone:
            yield Text(f"no room for: {', '.join(gone)}", style="dim")

    def _made(self, shown: list[Column], width: int) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        # Text, as paths and globs may hold [brackets], which rich would take as markup
        title = Text(self.title, style="table.title") if self.title else None
        made = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        tight = sum(column.most + GAP for column in shown) - 1 > width
        spent = sum(_width(column) + GAP for column in shown) - 1
        names = [column for column in shown if column.kind == "name"]
        over = max(0, spent - width)
        texts: dict[int, list[str]] = {}
        for column in shown:
            cells, limit = column.cells, column.most
            if column.kind == "name" and over:
                limit = max(column.least, column.most - -(-over // len(names)))
                cells = [folded(cell, limit) for cell in cells]
            texts[id(column)] = cells
            head = column.head
            if column.kind == "number" and tight:
                head = "\n".join(textwrap.wrap(head, max(1, column.least), break_long_words=False))
            made.add_column(Text(head), justify="right" if column.kind == "number" else "left",
                            no_wrap=column.kind != "text", vertical="top")  # fmt: skip
        for index, style in enumerate(self._styles):
            made.add_row(*(Text(texts[id(column)][index]) for column in shown), style=style,
                         end_section=index in self._sections)  # fmt: skip
        return made


def _width(column: Column) -> int:
    """Characters of a column that need not be shortened: a long head over short numbers is wrapped."""
    return column.least if column.kind in ("number", "text") else column.most
