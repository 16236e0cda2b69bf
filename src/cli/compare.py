"""Compare: python -m src.compare <folders…> [conditions…], such as: outputs/sweeps/lr optimizer.name=adam 'val/loss<0.3'

Ranks runs of sweeps and single runs by the metric of their task; seeds and folds are repetitions of one row. A key, metric or
column can be named by its last part if that is unique: --columns lr,val/accuracy.
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

from src.comparison.console_table import LIMIT, columns_of, headline, print_view
from src.comparison.view import views
from src.core.console import Parser, echo, on_terminal
from src.core.errors import UserError, nearest
from src.core.escape import line
from src.run_store.recorded_run import curves_of, recorded_run

if TYPE_CHECKING:
    from src.comparison.view import View
    from src.diagnostics.scaling_law import PowerLaw
    from src.run_store.recorded_run import RecordedRun

FORMATS = ("csv", "json", "markdown", "latex")


def _add_view_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select what is shown."""
    parser.add_argument(
        "--metric", help="rank by this metric, such as val/accuracy, of each run's best epoch or of the test"
    )
    parser.add_argument("--sort", metavar="COLUMN", help="sort by a column, metric or key; COLUMN:desc: highest first")
    parser.add_argument(
        "--filter", metavar="CONDITIONS", action="append", default=[], help="such as 'optimizer.name=adam val/loss<0.3'"
    )
    parser.add_argument(
        "--columns", metavar="A,B", help="columns, metrics or keys to show; all: every key that differs"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"largest number of rows ({LIMIT}); 0: all")
    parser.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="two runs, by rank or name: configs, metrics, curves"
    )
    export_help = "print the table in this format; in CSV, text like =1+1 gets an apostrophe in front"
    parser.add_argument("--export", metavar="|".join(FORMATS), help=export_help)
    parser.add_argument(
        "--plots", action="store_true", help="write curves, responses, importance, … to plots/, as PNG and SVG"
    )
    parser.add_argument("--html", action="store_true", help="write everything as one page, report.html")
    parser.add_argument("--open", action="store_true", help="write the page and open it")
    parser.add_argument("--watch", action="store_true", help="repeat while jobs run")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="interval of --watch (5)")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="folder for plots and page (the compared folder)")


@dataclass(frozen=True)
class LoadedRuns:
    """Runs that were read from folders or from a server.

    Args:
        runs: all runs.
        places: folders or projects that were read.
        folder: folder for plots and page.
        pending: number of jobs of their sweeps that have not started.
        driven: whether the process that starts these jobs is running.
        remarks: object whose text lists what was left out, one line each; it grows while curves are read.
    """

    runs: "Sequence[RecordedRun]"
    places: Sequence[str]
    folder: Path
    pending: int = 0
    driven: bool = False
    read_warnings: object = ""

    @property
    def ended(self) -> bool:
        """Whether the runs will not change any more."""
        return not (self.pending and self.driven) and all(run.status != "running" for run in self.runs)


def compare(loaded: LoadedRuns, options: argparse.Namespace, reload: float | None = None) -> "list[View]":
    """Print and write what the command line selects, and return the views.

    Args:
        loaded: runs to compare.
        options: parsed by `parser`.
        reload: seconds after which the page reloads itself; None for never.

    Raises:
        UserError: if an option names a run, key, metric or column that does not exist.
    """
    from src.comparison.filters import matching_runs, parse_filters

    runs = loaded.runs
    if filters := [run_filter for text in options.filter for run_filter in parse_filters(text, runs)]:
        runs = matching_runs(runs, filters)
    selected_views = views(runs, options.metric, options.sort)
    names = options.columns.split(",") if options.columns else None
    tables = [(view, columns_of(view, names)) for view in selected_views]
    if options.export:
        from src.comparison.table_formats import WRITERS

        echo(WRITERS[options.export](tables), end="")
    elif options.diff:
        from src.comparison.diff import print_diff, ranked_rows, resolve_run

        one, other = (resolve_run(name, runs, ranked_rows(selected_views)) for name in options.diff)
        print_diff(one, other)
    else:
        echo(line(headline(runs, loaded.pending)))
        for view, columns in tables:
            print_view(view, columns, options.limit, whole=names is not None)
    stream = sys.stderr if options.export else sys.stdout
    try:
        if options.plots:
            from src.comparison.chart_files import save_charts

            echo(f"\nplots in {save_charts(loaded.folder, selected_views)}", file=stream)
        if options.html:
            from src.comparison.page import write_report

            file = loaded.folder / "report.html"
            write_report(file, tables, loaded.places, loaded.pending, loaded.read_warnings, reload)
            echo(f"\npage: {file}", file=stream)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename or loaded.folder}: cannot be written: {error.strerror}") from error
    if read_warnings := str(loaded.read_warnings):
        echo(read_warnings, file=sys.stderr)
    return selected_views


def watch(read: Callable[[], LoadedRuns], options: argparse.Namespace) -> "list[View]":
    """Compare runs repeatedly until all have ended or Ctrl-C, and return the last views.

    Args:
        read: returns the current state of the runs.
        options: parsed by `parser`.
    """
    from src.run_store.reader import NoRuns

    views: list[View] = []
    last_error = ""
    try:
        while True:
            started = time.monotonic()
            try:
                loaded = read()
            except NoRuns as error:
                if str(error) != last_error:
                    echo(f"{error}\nwaiting for one; Ctrl-C ends", file=sys.stderr, flush=True)
                    last_error = str(error)
                time.sleep(options.every)
                continue
            if on_terminal():
                print("\033[H\033[2J", end="")
            views = compare(loaded, options, None if loaded.ended else options.every)
            _open(loaded, options)
            if loaded.ended:
                if loaded.pending:
                    echo(
                        f"\nthe sweep is not running any more, and {loaded.pending} of its jobs have not started: "
                        "run its command again to continue",
                        file=sys.stderr,
                    )
                return views
            echo(f"\nagain every {options.every:g} s; Ctrl-C ends", file=sys.stderr, flush=True)
            time.sleep(max(0.0, options.every - (time.monotonic() - started)))
    except KeyboardInterrupt:
        echo(file=sys.stderr)
        return views


def _open(loaded: LoadedRuns, options: argparse.Namespace) -> None:
    """Open the page in the default browser, the first time only."""
    if options.open:
        import webbrowser

        options.open = False
        if not webbrowser.open((loaded.folder / "report.html").absolute().as_uri()):
            echo("no browser was found to open the page", file=sys.stderr)


def show(read: Callable[[], LoadedRuns], options: argparse.Namespace) -> "list[View]":
    """Compare runs once or, with ``--watch``, as long as they run; return the views.

    Args:
        read: returns the current state of the runs.
        options: parsed by `parser`.
    """
    options.html = options.html or options.open
    if options.export is not None and options.export not in FORMATS:
        raise UserError(f"--export {options.export}: {nearest(options.export, FORMATS)}")
    if options.limit < 0:
        raise UserError(f"--limit {options.limit}: must be 0 (all rows) or more")
    if options.watch:
        if not options.every > 0:
            raise UserError(f"--every {options.every:g}: the interval in seconds must be above 0")
        return watch(read, options)
    loaded = read()
    views = compare(loaded, options)
    _open(loaded, options)
    return views


def scaling(path: Path, runs: "Sequence[RecordedRun]", size: str) -> "list[PowerLaw]":
    """Fit a power law to the finished runs of a folder, and with at least five sizes a second one with a constant; print and
    draw both.

    Args:
        path: folder for the plot.
        runs: runs of the folder.
        size: ``parameters``, ``multiply_adds`` or the key that grows; everything else should be the same.

    Returns:
        The laws.

    Raises:
        UserError: if no law can be fitted.
    """
    from src.diagnostics.scaling_law import draw, fit, fit_with_constant
    from src.run_store.plots import save_figure

    finished = [run for run in runs if run.status == "finished" and run.value is not None]
    metrics = {run.metric for run in finished}
    if len(metrics) != 1 or not next(iter(metrics)).endswith("/loss"):
        raise UserError(
            f"--scaling fits one loss; the metric of these runs is {', '.join(sorted(metrics)) or 'nothing'}"
        )
    x, loss = [run.size(size) for run in finished], [float(run.value or 0.0) for run in finished]
    laws = [fit(x, loss)]
    if len(set(x)) >= 5:
        laws.append(fit_with_constant(x, loss))
    (metric,) = metrics
    echo(f"\n{metric} of {len(finished)} runs against {size}:")
    echo("\n".join(f"  {law}" for law in laws))
    determined = [law for law in laws if law.has_constant or law is laws[0]]
    if len(determined) < len(laws):
        echo("  (these runs do not determine the constant: use the first law)")
    echo(f"drawn in {save_figure(path, f'scaling-{size}', draw(x, loss, determined, size, metric))}")
    return laws


def report(project: str, views: "Sequence[View]", filtered: bool = False) -> str:
    """Make a W&B report of the largest view of a project, and print and return its address.

    Args:
        project: ``entity/project``.
        views: views of its runs, the largest first.
        filtered: whether the views lack some runs of the project.

    Raises:
        UserError: without wandb-workspaces, or if W&B rejects the report.
    """
    from src.comparison.table_formats import to_markdown
    from src.loggers.wandb.report import build_report, save_report

    view, *rest = views
    entity, name = project.split("/")
    table = to_markdown([(view, [*view.keys, "run"])])
    ids = [run.record["wandb"]["id"] for run in view.runs] if filtered or rest else []
    address = save_report(build_report(entity, name, view.metric, view.mode, view.keys, table=table, runs=ids))
    note = f" of {view.title}; --metric or a condition selects another" if rest else ""
    echo(f"report: {address}{note}")
    return address


class _Parser(Parser):
    """Report a mistyped option with the nearest valid one."""

    def error(self, message: str) -> None:  # type: ignore[override]
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        argument = message.removeprefix("unrecognized arguments: ").partition(" ")[0]
        if message.startswith("unrecognized") and argument.startswith("-"):
            message = f"{argument}: there is no such option. {nearest(argument.partition('=')[0], options)}"
        echo(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        "python -m src.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="folder or condition",
        help="a sweep, a run, a folder that contains some, or a condition as for --filter",
    )
    _add_view_options(parser)
    parser.add_argument(
        "--wandb", metavar="ENTITY/PROJECT", help="compare the runs of this project, read from the server"
    )
    parser.add_argument("--report", action="store_true", help="with --wandb, make a report of them on the server")
    parser.add_argument("--scaling", metavar="SIZE", help="fit loss = A · size^-α: parameters, multiply_adds, or a key")
    return parser


def run(options: argparse.Namespace) -> None:
    """Run the command line.

    Args:
        options: parsed by `parser`.

    Raises:
        UserError: if there are no runs, or if an option is invalid.
    """
    from src.comparison.filters import is_condition

    folders = []
    for argument in options.arguments:
        if not Path(argument).exists() and is_condition(argument):
            options.filter.append(argument)
        else:
            folders.append(Path(argument))
    if bool(folders) == bool(options.wandb):
        note = f" ({', '.join(options.filter)}: read as a condition)" if options.filter else ""
        raise UserError(
            "which runs? python -m src.compare outputs/sweeps/<name>, any folder that contains runs, or "
            f"--wandb entity/project{note}"
        )
    if (options.report and not options.wandb) or (options.scaling and options.wandb):
        raise UserError("--report needs --wandb, and --scaling needs folders")
    if options.wandb:
        views = show(lambda: read_wandb(options.wandb, options.into), options)
        if options.report:
            report(options.wandb, views, filtered=bool(options.filter))
        return
    show(lambda: read(folders, options.into), options)
    if options.scaling:
        loaded = read(folders, options.into)
        scaling(loaded.folder, loaded.runs, options.scaling)


def read(folders: Sequence[Path], target: Path | None) -> LoadedRuns:
    """Read the runs of some folders.

    Args:
        folders: sweeps, runs, or folders that contain some.
        target: folder for plots and page; None for the common parent of the folders.

    Raises:
        UserError: if there are no runs.
    """
    from src.run_store.reader import ReadWarnings, read_runs
    from src.sweeping.pending_jobs import pending

    read_warnings = ReadWarnings()
    runs = read_runs(*folders, read_warnings=read_warnings)
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    count, driven = pending(folders)
    return LoadedRuns(runs, [str(folder) for folder in folders], target or common, count, driven, read_warnings)


def read_wandb(project: str, target: Path | None) -> LoadedRuns:
    """Read the runs of a Weights & Biases project.

    Args:
        project: ``entity/project``.
        target: folder for plots and page; None for outputs/wandb/<entity>/<project>.

    Raises:
        UserError: if it cannot be read.
    """
    from src.loggers.wandb.reader import read_project
    from src.run_store.filters import flatten

    runs = [
        recorded_run(
            run.name,
            run.url,
            dict(flatten(run.config)),
            run.record,
            partial(curves_of, run.rows),
            load_predictions=cache(run.predictions),
            read_attention=cache(run.attention),
        )
        for run in read_project(project)
    ]
    return LoadedRuns(runs, [project], target or Path("outputs", "wandb", *project.split("/")))
