"""Compare: python -m src.compare <folders…> [conditions…], such as: outputs/sweeps/lr optimizer.name=adam 'val/loss<0.3'

Ranks the runs of sweeps, or single ones, by the metric of their task; seeds and folds are repetitions of one row. Any key,
metric or column can be named by its last part, where that is enough: --columns lr,val/accuracy.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from src.comparison.console_table import LIMIT
from src.core.console import Parser, echo
from src.core.errors import UserError, nearest
from src.core.escape import line

if TYPE_CHECKING:
    from src.comparison.view import View
    from src.diagnostics.scaling_law import PowerLaw
    from src.run_store.recorded_run import RecordedRun

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
    from src.comparison.console_table import columns_of, headline, print_view
    from src.comparison.filters import conditions, kept
    from src.comparison.view import views

    runs = found.runs
    if wanted := [condition for text in words.filter for condition in conditions(text, runs)]:
        runs = kept(runs, wanted)
    shown = views(runs, words.metric, words.sort)
    asked = words.columns.split(",") if words.columns else None
    tables = [(view, columns_of(view, asked)) for view in shown]
    if words.export:
        from src.comparison.table_formats import WRITERS

        echo(WRITERS[words.export](tables), end="")
    elif words.diff:
        from src.comparison.diff import chosen, print_diff, rows_of

        one, other = (chosen(word, runs, rows_of(shown)) for word in words.diff)
        print_diff(one, other)
    else:
        echo(line(headline(runs, found.pending)))
        for view, columns in tables:
            print_view(view, columns, words.limit, whole=asked is not None)
    beside = sys.stderr if words.export else sys.stdout
    try:
        if words.pictures:
            from src.comparison.charts import save_pictures

            echo(f"\npictures in {save_pictures(found.into, shown)}", file=beside)
        if words.html:
            from src.comparison.page import write_report

            page = write_report(found.into / "report.html", tables, found.places, found.pending, found.remarks, reload)
            echo(f"\npage: {page}", file=beside)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename or found.into}: cannot be written: {error.strerror}") from error
    if text := str(found.remarks):
        echo(text, file=sys.stderr)
    return shown


def watch(read: Callable[[], Found], words: argparse.Namespace) -> "list[View]":
    """Show runs again and again, until all have ended or Ctrl-C, and return the last views.

    Args:
        read: gives the runs as they are now.
        words: the options of `add_options`.
    """
    from src.core.console import on_terminal
    from src.run_store.reader import NoRuns

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


def scaling(path: Path, runs: "Sequence[RecordedRun]", size: str) -> "list[PowerLaw]":
    """Fit a power law to the finished runs of a folder, draw it, and return it; a second one with a constant, where
    there are sizes enough.

    Args:
        path: the folder, which gets the picture.
        runs: the runs in it.
        size: what grows; everything else should be the same.

    Raises:
        UserError: if no law can be fitted.
    """
    from src.diagnostics.scaling_law import draw, fit, fit_with_constant
    from src.run_store.plots import save_picture

    done = [run for run in runs if run.status == "finished" and run.value is not None]
    metrics = {run.metric for run in done}
    if len(metrics) != 1 or not next(iter(metrics)).endswith("/loss"):
        raise UserError(
            f"--scaling fits one loss; these runs are measured by {', '.join(sorted(metrics)) or 'nothing'}"
        )
    x, loss = [run.size(size) for run in done], [float(run.value or 0.0) for run in done]
    laws = [fit(x, loss)]
    if len(set(x)) >= 5:
        laws.append(fit_with_constant(x, loss))
    (metric,) = metrics
    echo(f"\n{metric} of {len(done)} runs against {size}:")
    echo("\n".join(f"  {law}" for law in laws))
    known = [law for law in laws if law.has_constant or law is laws[0]]
    if len(known) < len(laws):
        echo("  (these points do not pin the constant down: the first law is what they show)")
    echo(f"drawn in {save_picture(path, f'scaling-{size}', draw(x, loss, known, size, metric))}")
    return laws


def report(project: str, views: "Sequence[View]", filtered: bool = False) -> str:
    """Make a report of the largest view of a project in Weights & Biases, print where it is, and return that.

    Args:
        project: ``entity/project``.
        views: of its runs, the largest first.
        filtered: whether they are not all runs of the project.

    Raises:
        UserError: without wandb-workspaces, or if W&B does not take it.
    """
    from src.comparison.table_formats import to_markdown
    from src.loggers.wandb.report import build_report, save_report

    view, *rest = views
    entity, name = project.split("/")
    table = to_markdown([(view, [*view.keys, "run"])])
    ids = [run.record["wandb"]["id"] for run in view.runs] if filtered or rest else []
    address = save_report(build_report(entity, name, view.metric, view.mode, view.keys, table=table, runs=ids))
    left = f" of {view.title}; --metric or a condition chooses another" if rest else ""
    echo(f"report: {address}{left}")
    return address


class _Parser(Parser):
    """Answers a mistyped option with the nearest one."""

    def error(self, message: str) -> None:  # type: ignore[override]
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        wrong = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and wrong[0].startswith("-"):
            message = f"{wrong[0]}: there is no such option. {nearest(wrong[0].partition('=')[0], known)}"
        echo(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = _Parser(
        "python -m src.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "words",
        nargs="*",
        metavar="word",
        help="a sweep, a run, a folder that holds such, or a condition as for --filter",
    )
    add_options(made)
    made.add_argument("--wandb", metavar="ENTITY/PROJECT", help="the runs of this project, read from the server")
    made.add_argument("--report", action="store_true", help="with --wandb, make a report of them there")
    made.add_argument("--scaling", metavar="SIZE", help="fit loss = A · size^-α: parameters, multiply_adds, or a key")
    return made


def read(folders: Sequence[Path], into: Path | None) -> Found:
    """Read the runs of some folders.

    Raises:
        UserError: if there are none.
    """
    from src.run_store.reader import Remarks, read_runs
    from src.sweeping.pending_jobs import pending

    remarks = Remarks()
    runs = read_runs(*folders, remarks=remarks)
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    waiting, driven = pending(folders)
    return Found(runs, [str(folder) for folder in folders], into or common, waiting, driven, remarks)


def read_wandb(project: str, into: Path | None) -> Found:
    """Read the runs of a Weights & Biases project.

    Raises:
        UserError: if it cannot be read.
    """
    from src.loggers.wandb.reader import read_project
    from src.run_store.filters import flat
    from src.run_store.recorded_run import curves_of, recorded_run

    runs = [
        recorded_run(
            run.name,
            run.url,
            dict(flat(run.config)),
            run.record,
            partial(curves_of, run.rows),
            read_answers=cache(run.answers),
            read_attention=cache(run.attention),
        )
        for run in read_project(project)
    ]
    return Found(runs, [project], into or Path("outputs", "wandb", *project.split("/")))
