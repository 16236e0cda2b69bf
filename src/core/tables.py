"""Tables for people: in colour on a terminal, as plain text in a log, with every cell escaped."""

from io import StringIO
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.core.console import LOG_WIDTH, echo, on_terminal
from src.core.escape import line


class Rows(NamedTuple):
    """A table to be shown: the rows by column, all with the same columns."""

    title: str
    rows: list[dict[str, str]]


class _PlainTable(Table):
    """A table whose headings and cells are text: no markup, one line each, control characters visible."""

    def add_column(self, header: Any = "", *arguments: Any, **options: Any) -> None:
        super().add_column(_plain(header), *arguments, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_plain, cells), **options)


MAX_CELL = 2000
"""Characters of a cell that are shown: a record may hold megabytes, which take rich a minute."""


def _plain(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return Text(line(cell if len(cell) <= MAX_CELL else f"{cell[: MAX_CELL - 1]}…"))


def new_table(*columns: str, title: str | None = None, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table.

    Args:
        columns: the headings.
        title: a line above it.
        numbers: the columns that are aligned on the right.
    """
    box_style = box.SIMPLE_HEAD if on_terminal() else None
    table = _PlainTable(title=_plain(title), title_justify="left", box=box_style, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def show(renderable: Any) -> None:
    """Print a table of `new_table`, or a text, to standard output."""
    if isinstance(renderable, str):
        echo(renderable, flush=True)
        return
    if on_terminal():
        Console(markup=False, emoji=False, highlight=False).print(renderable)
        return
    console = Console(file=StringIO(), width=10_000, color_system=None, markup=False, emoji=False, highlight=False)
    console.width = max(console.measure(renderable).maximum, LOG_WIDTH)  # a name that is folded cannot be searched for
    with console.capture() as captured:
        console.print(renderable)
    echo("\n".join(row.rstrip() for row in captured.get().splitlines()), flush=True)
