"""Tables that are printed and written to a run folder."""

from collections.abc import Sequence
from pathlib import Path

from src.core.escape import markdown, markdown_table
from src.core.tables import new_table, show
from src.run_store.atomic_write import atomic_write


def show_table(sweep: Path, name: str, title: str, rows: Sequence[dict[str, str]]) -> Path:
    """Print a table, write it to <name>.md in the folder of a sweep, and return the path of the file.

    Args:
        sweep: the folder of the sweep.
        name: name of the file, without suffix.
        title: printed above the table.
        rows: all with the same columns.
    """
    columns = list(rows[0])
    table = new_table(*columns, title=title)
    for row in rows:
        table.add_row(*row.values())
    show(table)
    path = sweep / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = ([markdown(cell) for cell in row.values()] for row in rows)
    with atomic_write(path) as file:
        file.write(f"{markdown_table(list(map(markdown, columns)), body)}\n".encode())
    return path
