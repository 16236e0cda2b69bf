"""Compare: python -m src.compare <sweep folder> [--scaling parameters]

Ranks the runs of a folder by their monitored metric. With --scaling, fits the power law loss = A · size^-α and draws it
into plots/ of the folder. A size is parameters, multiply_adds, or a key of the config such as datamodule.train_size.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.command_line import errors_for_people
from src.errors import UserError

if TYPE_CHECKING:
    from src.tracking.recorded import RecordedRun
    from src.tracking.scaling import PowerLaw


def rank(runs: "Sequence[RecordedRun]") -> None:
    """Print one table for each metric, since losses of different tasks do not compare, and which runs have none."""
    from src.tracking.ranking import print_ranking

    for metric in dict.fromkeys(run.metric for run in runs if run.metric):
        same = [run for run in runs if run.metric == metric]
        print_ranking(same, same[0].mode)
    for run in runs:
        if not run.metric:
            print(f"not measured: {run.status}  {run.folder}")


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
    print(f"\n{metric} of {len(done)} runs against {size}:")
    print("\n".join(f"  {law}" for law in laws))
    known = [law for law in laws if law.has_constant or law is laws[0]]
    if len(known) < len(laws):
        print("  (these points do not pin the constant down: the first law is what they show)")
    print(f"drawn in {save_picture(path, f'scaling-{size}', draw(x, loss, known, size, metric))}")
    return laws


def report(project: str, runs: "Sequence[RecordedRun]") -> str:
    """Make a report of a project's runs in Weights & Biases, print where it is, and return that.

    Args:
        project: ``entity/project``.
        runs: its runs.

    Raises:
        UserError: without wandb-workspaces, or if W&B does not take it.
    """
    from src.tracking.ranking import differing, rank
    from src.tracking.wandb_report import build_report, markdown, save_report

    metric = next(run.metric for run in runs if run.metric)
    same = [run for run in runs if run.metric == metric]
    ranked = rank(same, same[0].mode)
    keys = differing([run.overrides for run in same])
    entity, name = project.split("/")
    table = markdown([(run.folder.name, run.value, run.overrides) for run in ranked], metric, keys)
    address = save_report(build_report(entity, name, metric, same[0].mode, keys, table=table))
    print(f"report: {address}")
    return address


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m src.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="a sweep's folder, or any that holds run folders")
    parser.add_argument("--scaling", metavar="SIZE", help="fit loss against this size")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="the runs of this project, read from the server")
    parser.add_argument("--report", action="store_true", help="with --wandb, make a report of them there")
    words = parser.parse_args(argv)
    with errors_for_people():
        from src.tracking.recorded import read_runs, read_wandb

        if (words.folder is None) == (words.wandb is None):
            raise UserError("compare a folder, such as outputs/sweeps/<name>, or --wandb entity/project")
        if (words.wandb is None and words.report) or (words.wandb is not None and words.scaling):
            raise UserError("--report goes with --wandb, and --scaling with a folder")
        runs = read_runs(words.folder) if words.wandb is None else read_wandb(words.wandb)
        rank(runs)
        if words.report:
            report(words.wandb, runs)
        if words.scaling:
            scaling(words.folder, runs, words.scaling)


if __name__ == "__main__":
    main(sys.argv[1:])
