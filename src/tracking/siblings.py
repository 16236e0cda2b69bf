"""The runs of a sweep beside each other, for a comparison that every run draws anew when it ends."""

from collections.abc import Sequence
from pathlib import Path

from src.config.schema import Config
from src.core.escape import markdown
from src.core.files import is_file_below
from src.tracking.console import new_table, show
from src.tracking.replacing import replaced
from src.tracking.run_folder import RunFolder


def in_sweep(folder: RunFolder, config: Config) -> bool:
    """Tell whether a run is a job of a sweep, and so has siblings."""
    sweep = folder.path.parent
    return sweep.name == config.sweep.name and is_file_below(sweep, "ledger.jsonl")


def siblings_with(folder: RunFolder, key: str) -> list[RunFolder]:
    """Return the runs of the same sweep, this one included, whose record holds a key, in the order of their start."""
    paths = [path.parent for path in folder.path.parent.glob("*/run.json")]
    runs = [run for run in map(RunFolder.open, paths) if key in run.record]
    return sorted(runs, key=lambda run: str(run.record.get("started")))


def show_table(sweep: Path, name: str, title: str, rows: Sequence[dict[str, str]]) -> Path:
    """Print a table, write it as <name>.md into a sweep's folder, and return that file.

    Args:
        sweep: the folder.
        name: of the file.
        title: a line above the printed table.
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
    lines = [list(map(markdown, columns)), ["---"] * len(columns), *body]
    with replaced(path) as file:
        file.write("".join(f"| {' | '.join(cells)} |\n" for cells in lines).encode())
    return path
