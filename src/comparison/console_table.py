"""The table of a comparison on the console."""

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console

from src.comparison.config_keys import format_value, resolve_name, short_names
from src.comparison.statistics import CONFIDENCE, mark
from src.comparison.view import Row, View, names_of, statuses, views
from src.core.console import LOG_WIDTH, echo, on_terminal
from src.core.errors import MAX_LISTED, truncate
from src.core.escape import line
from src.core.tables import new_table, show
from src.run_store.recorded_run import RecordedRun

MAX_FAILED = 5
"""Failed runs that are listed; the others are only counted."""
MAX_ERROR_LENGTH = 500
"""Maximum number of printed characters of the error of a failed run."""


def headline(runs: Sequence[RecordedRun], pending: int = 0) -> str:
    """Return the number of runs by status, as a line.

    Args:
        runs: runs that were read.
        pending: number of jobs of their sweeps that have not started.
    """
    counts = count_statuses(runs, pending)
    total = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{total}: {', '.join(f'{count} {status}' for status, count in counts.items())}"


def count_statuses(runs: Sequence[RecordedRun], pending: int) -> dict[str, int]:
    """Count runs by status, including jobs that have not started."""
    return statuses(runs) | ({"pending": pending} if pending else {})


def columns_of(view: View, names: Sequence[str] | None) -> list[str]:
    """Return the columns after rank and metric.

    Args:
        view: view to show.
        names: columns, possibly abbreviated; ``all`` for those of the view and every other key that differs; None for those of
            the view.

    Raises:
        UserError: if there is no such column.
    """
    if names is None:
        return view.columns
    choices = names_of(view.runs)
    columns: list[str] = []
    for name in names:
        if name == "all":
            others = [column for column in view.columns if column not in view.keys]
            columns += [*view.keys, *view.dependent_keys, *others]
        else:
            columns.append(resolve_name(name, choices, view.keys))
    return list(dict.fromkeys(columns))


def print_view(view: View, columns: Sequence[str], limit: int = 0, whole: bool = False) -> None:
    """Print one ranked table and a legend.

    Args:
        view: view to show.
        columns: columns after rank and metric.
        limit: largest number of rows; 0 for all.
        whole: show every column, even if they do not fit side by side.
    """
    rows = view.rows[:limit] if limit else view.rows
    head, *body = texts(view, columns, rows)
    first = len(head) - len(columns)
    head = [*head[:first], *map(format_value, short_names(columns))]
    places = range(len(head)) if whole else _fitting([head, *body], first)
    numbers = {0, 1, *(first + place for place, column in enumerate(columns) if _is_number(view.rows[0], column))}
    table = new_table()
    for place in places:
        table.add_column(head[place], justify="right" if place in numbers else "left", no_wrap=not whole)
    for row, cells in zip(rows, body, strict=True):
        style = ("bold" if row.rank == 1 else "dim" if row.rank is None else None) if on_terminal() else None
        table.add_row(*(cells[place] for place in places), style=style)
    echo(f"\n{line(view.title)}")
    show(table)
    hidden = [column for place, column in enumerate(columns, start=first) if place not in places]
    for note in (*_hidden_lines(view, len(rows), hidden), *legend(view, columns), *_folder_lines(view)):
        echo(line(note))


def texts(view: View, columns: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    """Return the heading and some rows of a view as texts.

    Args:
        view: view to show.
        columns: columns after rank and metric.
        rows: rows of the view.
    """
    repeated, tested = view.repeated, bool(view.test)
    leading = ["rank", view.metric, *(["95 % interval"] if repeated else []), *(["vs best"] if tested else [])]
    lines = [[format_value(name) for name in (*leading, *columns)]]
    for row in rows:
        cells = [str(row.rank or "-"), str(row.score or "-")]
        cells += [row.score.shown_interval() if row.score else ""] if repeated else []
        cells += [mark(row.p)] if tested else []
        lines.append([*cells, *(row.text(column) for column in columns)])
    return lines


def _fitting(lines: Sequence[Sequence[str]], first: int) -> list[int]:
    """Return the indices of the columns that fit side by side, from the left; the first `first` are always included."""
    gap, width = (3, Console(markup=False).width) if on_terminal() else (2, LOG_WIDTH)
    free = width + gap
    indices = []
    for index, cells in enumerate(zip(*lines, strict=True)):
        free -= max(map(cell_len, cells)) + gap
        if index < first or free >= 0:
            indices.append(index)
        if free < 0:
            break
    return indices


def _is_number(row: Row, column: str) -> bool:
    return not isinstance(row.value(column), str | list | bool)


def _hidden_lines(view: View, shown_rows: int, columns: Sequence[str]) -> list[str]:
    more = len(view.rows) - shown_rows
    lines = [f"… {more} more rows: --limit 0 shows all"] if more else []
    if columns:
        names = ", ".join(columns[:MAX_LISTED]) + (
            f" and {len(columns) - MAX_LISTED} more" if len(columns) > MAX_LISTED else ""
        )
        lines.append(f"no room for {names}: widen the window, or use --columns")
    return lines


def legend(view: View, columns: Sequence[str]) -> list[str]:
    """Return the explanations of the marks and names of a table, one for each line."""
    lines = []
    if view.repeated:
        wider = ", wider as folds share training data" if view.folded else ""
        over = "folds" if view.folded else "seeds"
        lines.append(f"± standard deviation over {over}; interval of the mean by Student's t, {CONFIDENCE:.0%}{wider}")
    if view.test:
        lines.append(f"vs best: {view.test}, Holm's correction; ≈ no significant difference, * p < 0.05, ** p < 0.01")
    if "gap" in columns:
        lines.append("gap: val/loss - train/loss in the best epoch")
    if view.dependent_keys and not set(view.dependent_keys) & set(columns):
        names = ", ".join(view.dependent_keys[:3]) + (", …" if len(view.dependent_keys) > 3 else "")
        lines.append(f"also different, as a consequence: {names} (--columns all)")
    return lines


def _folder_lines(view: View) -> list[str]:
    """Return the folder of the best run, and those of failed runs with their errors."""
    lines = [f"best: {format_value(view.rows[0].best.place)}"] if view.rows[0].rank == 1 else []
    failed = [run for run in view.runs if run.status == "failed"]
    for run in failed[:MAX_FAILED]:
        error = str(run.record.get("error") or "").strip().splitlines()
        lines.append(
            f"failed: {format_value(run.place)}  {format_value(truncate(error[-1], MAX_ERROR_LENGTH)) if error else ''}".rstrip()
        )
    more = len(failed) - MAX_FAILED
    return [*lines, *([f"failed: {more} more (status=failed lists them)"] if more > 0 else [])]


LIMIT = 30
"""Default of the largest number of printed rows."""


def print_ranking(folders: Sequence[Path]) -> None:
    """Print the ranked tables of a sweep, at its end.

    Args:
        folders: folders of its jobs; those that hold no run yet are ignored.
    """
    from src.run_store.reader import read_runs

    started = [folder for folder in folders if (folder / "run.json").is_file()]
    if started:
        for view in views(read_runs(*started)):
            print_view(view, view.columns, LIMIT)
