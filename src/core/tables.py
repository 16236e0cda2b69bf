"""Print tables: in colour on a terminal, as plain text in a log, with escaped cells."""

from collections.abc import Iterable
from io import StringIO
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.core.console import LOG_WIDTH, echo, on_terminal
from src.core.escape import line


class Rows(NamedTuple):
    """A table to print: its rows, which all have the same columns."""

    title: str
    rows: list[dict[str, str]]


class _PlainTable(Table):
    """A table whose headings and cells are shown literally: without markup, on one line, with control characters escaped."""

    def add_column(self, header: Any = "", *arguments: Any, **options: Any) -> None:
        super().add_column(_plain(header), *arguments, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_plain, cells), **options)


MAX_CELL = 2000
"""Maximum length of a cell in characters: a record may contain megabytes, which take rich a minute."""


def _plain(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return Text(line(cell if len(cell) <= MAX_CELL else f"{cell[: MAX_CELL - 1]}…"))


def new_table(*columns: str, title: str | None = None, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table.

    Args:
        columns: the headings.
        title: a line above the table.
        numbers: the columns that are right-aligned.
    """
    box_style = box.SIMPLE_HEAD if on_terminal() else None
    table = _PlainTable(title=_plain(title), title_justify="left", box=box_style, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def two_columns(rows: Iterable[tuple[str, object]], numbers: bool = False) -> Table:
    """Return a table of names and values, without headings.

    Args:
        rows: the names and values.
        numbers: whether the values are right-aligned.
    """
    table = new_table("", "", numbers=("",) if numbers else ())
    table.show_header, table.box = False, None
    table.columns[0].justify = "left"
    for name, value in rows:
        table.add_row(name, str(value))
    return table


def show(renderable: Any) -> None:
    """Print a table from `new_table`, or a text, to standard output."""
    if isinstance(renderable, str):
        echo(renderable, flush=True)
        return
    if on_terminal():
        Console(markup=False, emoji=False, highlight=False).print(renderable)
        return
    console = Console(file=StringIO(), width=10_000, color_system=None, markup=False, emoji=False, highlight=False)
    console.width = max(console.measure(renderable).maximum, LOG_WIDTH)  # a folded name cannot be searched for
    with console.capture() as captured:
        console.print(renderable)
    echo("\n".join(row.rstrip() for row in captured.get().splitlines()), flush=True)
