"""Tables that suit the terminal they are printed in. For the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_GAP = 2  # spaces between columns


@dataclass(frozen=True)
class Cell:
    """Text that stands on one line where there is room, else broken where its parts meet, nowhere else."""

    parts: tuple[str, ...]
    strong: bool = False

    def __str__(self) -> str:
        return " ".join(self.parts)

    def text(self, *, stacked: bool) -> Text:
        """What to print; brackets in it are no markup."""
        return Text(("\n" if stacked else " ").join(self.parts), style="bold" if self.strong else "")

    def width(self, *, stacked: bool) -> int:
        """Terminal columns that it takes."""
        return max(map(cell_len, self.parts), default=0) if stacked else cell_len(str(self))


@dataclass(frozen=True)
class Column:
    """A header and a cell per row."""

    header: Cell
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class FittedTable:
    """Columns side by side as the width allows; the first names the rows and is the only one that may fold.

    The first of these that fits: every cell on one line, headers stacked, all cells stacked, and the columns
    spread over several tables that each repeat the first one.
    """

    columns: tuple[Column, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for place, (columns, form) in enumerate(_arranged(self.columns, options.max_width)):
            if place:
                yield ""
            yield _table(columns, form)


@dataclass(frozen=True)
class _Form:
    """What may be broken into its parts."""

    headers: bool
    cells: bool

    def header_stacked(self, column: Column) -> bool:
        """Whether the header has to be stacked to be no wider than the cells below it."""
        return self.headers and column.header.width(stacked=False) > self._cells_width(column)

    def width(self, columns: Sequence[Column]) -> int:
        """Terminal columns that a table takes."""
        widths = [max(c.header.width(stacked=self.header_stacked(c)), self._cells_width(c)) for c in columns]
        return sum(widths) + _GAP * (len(widths) - 1)

    def _cells_width(self, column: Column) -> int:
        return max((cell.width(stacked=self.cells) for cell in column.cells), default=0)


_FORMS = (
    _Form(headers=False, cells=False),
    _Form(headers=True, cells=False),
    _Form(headers=True, cells=True),
)


def _arranged(columns: Sequence[Column], width: int) -> Iterator[tuple[list[Column], _Form]]:
    """The tables to print, the first column in each."""
    fitting = next((form for form in _FORMS if form.width(columns) <= width), None)
    if fitting:
        yield list(columns), fitting
        return
    narrowest, (names, *rest) = _FORMS[-1], columns
    block = [names]
    for column in rest:
        if len(block) > 1 and narrowest.width([*block, column]) > width:
            yield block, narrowest
            block = [names]
        block.append(column)
    yield block, narrowest


def _table(columns: Sequence[Column], form: _Form) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for place, column in enumerate(columns):
        header = column.header.text(stacked=form.header_stacked(column))
        if place:
            table.add_column(header, justify="right", no_wrap=True)
        else:
            table.add_column(header, overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(cell.text(stacked=form.cells) for cell in row))
    return table
