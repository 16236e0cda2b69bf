"""Compare: python -m src.compare <folders…> [conditions…], such as: outputs/sweeps/lr optimizer.name=adam 'val/loss<0.3'

Ranks the runs of sweeps, or single ones, by the metric of their task; seeds and folds are repetitions of one row. Any key,
metric or column can be named by its last part, where that is enough: --columns lr,val/accuracy.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from src.comparing.command import Found, add_options, show
from src.config.command_line import errors_for_people
from src.core.console import Parser, echo
from src.errors import UserError, nearest

if TYPE_CHECKING:
    from src.comparing.view import View
    from src.tracking.recorded import RecordedRun
    from src.tracking.scaling import PowerLaw


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
    from src.tracking.pictures import save_picture
    from src.tracking.scaling import draw, fit, fit_with_constant

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
    from src.comparing.export import to_markdown
    from src.tracking.wandb_report import build_report, save_report

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
    from src.comparing.sweeps import pending
    from src.tracking.reading import Remarks, read_runs

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
    from src.tracking.filters import flat
    from src.tracking.recorded import curves_of, recorded_run
    from src.tracking.wandb_runs import read_project

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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = parser().parse_intermixed_args(argv)
    with errors_for_people():
        from src.comparing.filters import is_condition

        folders = [Path(word) for word in words.words if Path(word).exists() or not is_condition(word)]
        words.filter += [word for word in words.words if not Path(word).exists() and is_condition(word)]
        if bool(folders) == bool(words.wandb):
            taken = f" ({', '.join(words.filter)}: taken for a condition)" if words.filter else ""
            raise UserError(
                "which runs? python -m src.compare outputs/sweeps/<name>, any folder that holds runs, or "
                f"--wandb entity/project{taken}"
            )
        if (words.report and not words.wandb) or (words.scaling and words.wandb):
            raise UserError("--report goes with --wandb, and --scaling with folders")
        if words.wandb:
            views = show(lambda: read_wandb(words.wandb, words.into), words)
            if words.report:
                report(words.wandb, views, filtered=bool(words.filter))
            return
        show(lambda: read(folders, words.into), words)
        if words.scaling:
            found = read(folders, words.into)
            scaling(found.into, found.runs, words.scaling)


if __name__ == "__main__":
    main(sys.argv[1:])
