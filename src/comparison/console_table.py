"""The table of a comparison on the console."""

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console

from src.comparison.config_keys import meant, short, shown
from src.comparison.statistics import CONFIDENCE, mark
from src.comparison.view import Row, View, names_of, statuses
from src.core.console import LOG_WIDTH, echo, on_terminal
from src.core.errors import SHOWN
from src.core.escape import line
from src.core.tables import new_table, show
from src.run_store.recorded_run import RecordedRun

NAMED = 5
"""Failed runs that are named; further ones are counted."""


def headline(runs: Sequence[RecordedRun], pending: int = 0) -> str:
    """Return how many runs there are, by status.

    Args:
        runs: that were read.
        pending: jobs of their sweeps that have not started.
    """
    counts = statuses_of(runs, pending)
    every = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{every}: {', '.join(f'{count} {status}' for status, count in counts.items())}"


def statuses_of(runs: Sequence[RecordedRun], pending: int) -> dict[str, int]:
    """Count runs by status, and with them the jobs that have not started."""
    return statuses(runs) | ({"pending": pending} if pending else {})


def columns_of(view: View, asked: Sequence[str] | None) -> list[str]:
    """Return the columns beside rank and metric.

    Args:
        view: what is shown.
        asked: what a person wants to see; None for the view's own, ``all`` for those and every other key that differs.

    Raises:
        UserError: if there is no such column.
    """
    if asked is None:
        return view.columns
    names = names_of(view.runs)
    every = [*view.keys, *view.following, *(column for column in view.columns if column not in view.keys)]
    found = [name for word in asked for name in (every if word == "all" else [meant(word, names, view.keys)])]
    return list(dict.fromkeys(found))


def print_view(view: View, columns: Sequence[str], limit: int = 0, whole: bool = False) -> None:
    """Print one ranked table, and what its marks mean.

    Args:
        view: what to show.
        columns: beside rank and metric.
        limit: the most rows; 0 for all.
        whole: show every column, also where they do not fit side by side.
    """
    rows = view.rows[:limit] if limit else view.rows
    head, *body = texts(view, columns, rows)
    first = len(head) - len(columns)
    head = [*head[:first], *map(shown, short(columns))]
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
    for note in (*_hidden(view, len(rows), hidden), *legend(view, columns), *_places(view)):
        echo(line(note))


def texts(view: View, columns: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    """Return the heading and some rows of a view, as people read them.

    Args:
        view: what is shown.
        columns: beside rank and metric.
        rows: of the view.
    """
    repeated, tested = view.repeated, bool(view.test)
    own = ["rank", view.metric, *(["95 % interval"] if repeated else []), *(["vs best"] if tested else [])]
    lines = [[shown(name) for name in (*own, *columns)]]
    for row in rows:
        cells = [str(row.rank or "-"), str(row.score or "-")]
        cells += [row.score.shown_interval() if row.score else ""] if repeated else []
        cells += [mark(row.p)] if tested else []
        lines.append([*cells, *(row.text(column) for column in columns)])
    return lines


def _fitting(lines: Sequence[Sequence[str]], first: int) -> list[int]:
    """Return the columns that stand side by side, from the left; `first` of them whatever their width."""
    gap, width = (3, Console(markup=False).width) if on_terminal() else (2, LOG_WIDTH)
    left = width + gap
    places = []
    for place, cells in enumerate(zip(*lines, strict=True)):
        left -= max(map(cell_len, cells)) + gap
        if place < first or left >= 0:
            places.append(place)
        if left < 0:
            break
    return places


def _is_number(row: Row, column: str) -> bool:
    return not isinstance(row.value(column), str | list | bool)


def _hidden(view: View, shown_rows: int, columns: Sequence[str]) -> list[str]:
    more = len(view.rows) - shown_rows
    lines = [f"… {more} more rows: --limit 0 shows all"] if more else []
    if columns:
        names = ", ".join(columns[:SHOWN]) + (f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else "")
        lines.append(f"no room for {names}: a wider window, or --columns, shows them")
    return lines


def legend(view: View, columns: Sequence[str]) -> list[str]:
    """Return what the marks and names of a table mean, a sentence a line."""
    lines = []
    if view.repeated:
        wider = ", wider as folds share training data" if view.folded else ""
        over = "folds" if view.folded else "seeds"
        lines.append(f"± standard deviation over {over}; interval of the mean by Student's t, {CONFIDENCE:.0%}{wider}")
    if view.test:
        lines.append(f"vs best: {view.test}, Holm's correction; ≈ not told apart from rank 1, * p < 0.05, ** p < 0.01")
    if "gap" in columns:
        lines.append("gap: val/loss - train/loss in the best epoch")
    if view.following and not set(view.following) & set(columns):
        names = ", ".join(view.following[:3]) + (", …" if len(view.following) > 3 else "")
        lines.append(f"also different, as a consequence: {names} (--columns all)")
    return lines


def _places(view: View) -> list[str]:
    """Return where the best run is, and the failed ones with their errors."""
    lines = [f"best: {shown(view.rows[0].best.place)}"] if view.rows[0].rank == 1 else []
    failed = [run for run in view.runs if run.status == "failed"]
    for run in failed[:NAMED]:
        error = str(run.record.get("error") or "").strip().splitlines()
        lines.append(f"failed: {shown(run.place)}  {shown(error[-1]) if error else ''}".rstrip())
    more = len(failed) - NAMED
    return [*lines, *([f"failed: {more} more (status=failed shows them)"] if more > 0 else [])]


LIMIT = 30
"""Rows of a table that are printed, unless more are asked for."""


def print_ranking(folders: Sequence[Path]) -> None:
    """Print the tables of the runs of a sweep, at its end.

    Args:
        folders: of its jobs; those that hold no run yet are left out.
    """
    from src.comparison.console_table import print_view
    from src.comparison.view import views
    from src.run_store.reader import read_runs

    if started := [folder for folder in folders if (folder / "run.json").is_file()]:
        for view in views(read_runs(*started)):
            print_view(view, view.columns, LIMIT)
