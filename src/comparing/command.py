"""What a comparison does with runs, whatever they were read from: the options of the command line and their order."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.console import echo
from src.core.escape import line
from src.errors import UserError, nearest

if TYPE_CHECKING:
    from src.comparing.view import View
    from src.tracking.recorded import RecordedRun

LIMIT = 30
"""Rows of a table that are printed, unless more are asked for."""

FORMATS = ("csv", "json", "markdown", "latex")


def add_options(made: argparse.ArgumentParser) -> None:
    """Add the options that say what is shown, wherever the runs were read."""
    made.add_argument("--metric", help="rank by this one, such as val/accuracy, in each run's best epoch or on test")
    made.add_argument("--sort", metavar="COLUMN", help="a column, metric or key; COLUMN:desc from the highest")
    made.add_argument(
        "--filter", metavar="CONDITIONS", action="append", default=[], help="such as 'optimizer.name=adam val/loss<0.3'"
    )
    made.add_argument("--columns", metavar="A,B", help="columns, metrics or keys to show; all: every key that differs")
    made.add_argument("--limit", type=int, default=LIMIT, help=f"the most rows ({LIMIT}); 0: all")
    made.add_argument("--diff", nargs=2, metavar=("A", "B"), help="two runs, by rank or name: configs, metrics, curves")
    exported = "print the table in this form; in CSV, text like =1+1 gets an apostrophe in front"
    made.add_argument("--export", metavar="|".join(FORMATS), help=exported)
    made.add_argument("--pictures", action="store_true", help="write curves, responses, importance, … into plots/")
    made.add_argument("--html", action="store_true", help="write all of it as one page, report.html")
    made.add_argument("--open", action="store_true", help="write the page and open it")
    made.add_argument("--watch", action="store_true", help="show it, and write the page, again while jobs run")
    made.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two looks of --watch (5)")
    made.add_argument("--into", type=Path, metavar="FOLDER", help="for pictures and page; by default what is compared")


@dataclass(frozen=True)
class Found:
    """Runs that were read, from folders or from a server.

    Args:
        runs: all of them.
        places: the folders or projects that were asked for.
        into: the folder that gets pictures and page.
        pending: jobs of their sweeps that have not started.
        driven: whether a process is there to start them.
        remarks: whose text says what had to be left out, a line each; it grows while curves are read.
    """

    runs: "Sequence[RecordedRun]"
    places: Sequence[str]
    into: Path
    pending: int = 0
    driven: bool = False
    remarks: object = ""

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return not (self.pending and self.driven) and all(run.status != "running" for run in self.runs)


def compare(found: Found, words: argparse.Namespace, reload: float | None = None) -> "list[View]":
    """Show some runs as the command line asks, and return the views.

    Args:
        found: the runs.
        words: the options of `add_options`.
        reload: seconds after which the page looks for a newer one.

    Raises:
        UserError: if the command line names what is not there.
    """
    from src.comparing.filters import conditions, kept
    from src.comparing.terminal import columns_of, headline, print_view
    from src.comparing.view import views

    runs = found.runs
    if wanted := [condition for text in words.filter for condition in conditions(text, runs)]:
        runs = kept(runs, wanted)
    shown = views(runs, words.metric, words.sort)
    asked = words.columns.split(",") if words.columns else None
    tables = [(view, columns_of(view, asked)) for view in shown]
    if words.export:
        from src.comparing.export import WRITERS

        echo(WRITERS[words.export](tables), end="")
    elif words.diff:
        from src.comparing.diff import chosen, print_diff, rows_of

        one, other = (chosen(word, runs, rows_of(shown)) for word in words.diff)
        print_diff(one, other)
    else:
        echo(line(headline(runs, found.pending)))
        for view, columns in tables:
            print_view(view, columns, words.limit, whole=asked is not None)
    beside = sys.stderr if words.export else sys.stdout
    try:
        if words.pictures:
            echo(f"\npictures in {save_pictures(found.into, shown)}", file=beside)
        if words.html:
            from src.comparing.report import write_report

            page = write_report(found.into / "report.html", tables, found.places, found.pending, found.remarks, reload)
            echo(f"\npage: {page}", file=beside)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename or found.into}: cannot be written: {error.strerror}") from error
    if text := str(found.remarks):
        echo(text, file=sys.stderr)
    return shown


def print_ranking(folders: Sequence[Path]) -> None:
    """Print the tables of the runs of a sweep, at its end.

    Args:
        folders: of its jobs; those that hold no run yet are left out.
    """
    from src.comparing.terminal import print_view
    from src.comparing.view import views
    from src.tracking.reading import read_runs

    if started := [folder for folder in folders if (folder / "run.json").is_file()]:
        for view in views(read_runs(*started)):
            print_view(view, view.columns, LIMIT)


def save_pictures(folder: Path, views: "Sequence[View]") -> Path:
    """Write every picture of some views as PNG, and return the folder that has them, plots/.

    Args:
        folder: that is compared.
        views: of its runs; with several, the names of the pictures begin with the data set and the metric.
    """
    from src.comparing.pictures import pictures
    from src.tracking.pictures import save_picture

    for view in views:
        data = view.runs[0].config.get("datamodule.name", "runs")
        prefix = re.sub(r"[^\w.-]", "-", f"{data}-{view.metric}-")[:100] if len(views) > 1 else ""
        for name, figure in pictures(view):
            save_picture(folder, prefix + re.sub(r"[^\w.-]", "-", name)[:100], figure)
    return folder / "plots"


def watch(read: Callable[[], Found], words: argparse.Namespace) -> "list[View]":
    """Show runs again and again, until all have ended or Ctrl-C, and return the last views.

    Args:
        read: gives the runs as they are now.
        words: the options of `add_options`.
    """
    from src.tracking.console import on_terminal
    from src.tracking.reading import NoRuns

    views: list[View] = []
    said = ""
    try:
        while True:
            started = time.monotonic()
            try:
                found = read()
            except NoRuns as error:
                if str(error) != said:
                    echo(f"{error}\nwaiting for one; Ctrl-C ends", file=sys.stderr, flush=True)
                    said = str(error)
                time.sleep(words.every)
                continue
            if on_terminal():
                print("\033[H\033[2J", end="")
            views = compare(found, words, None if found.ended else words.every)
            _open(found, words)
            if found.ended:
                if found.pending:
                    echo(
                        f"\nthe sweep does not run any more, and {found.pending} of its jobs have not started: "
                        "its command goes on with them",
                        file=sys.stderr,
                    )
                return views
            echo(f"\nagain every {words.every:g} s; Ctrl-C ends", file=sys.stderr, flush=True)
            time.sleep(max(0.0, words.every - (time.monotonic() - started)))
    except KeyboardInterrupt:
        echo(file=sys.stderr)
        return views


def _open(found: Found, words: argparse.Namespace) -> None:
    """Open the page, once, in the browser that the system has."""
    if words.open:
        import webbrowser

        words.open = False
        if not webbrowser.open((found.into / "report.html").absolute().as_uri()):
            echo("there is no browser here to open it with", file=sys.stderr)


def show(read: Callable[[], Found], words: argparse.Namespace) -> "list[View]":
    """Show runs once, or, with ``--watch``, as long as they run; return the views.

    Args:
        read: gives the runs.
        words: the options of `add_options`.
    """
    words.html = words.html or words.open
    if words.export is not None and words.export not in FORMATS:
        raise UserError(f"--export {words.export}: {nearest(words.export, FORMATS)}")
    if words.limit < 0:
        raise UserError(f"--limit {words.limit}: rows to show, 0 for all")
    if words.watch:
        if not words.every > 0:
            raise UserError(f"--every {words.every:g}: the seconds between two looks must be above 0")
        return watch(read, words)
    found = read()
    views = compare(found, words)
    _open(found, words)
    return views
