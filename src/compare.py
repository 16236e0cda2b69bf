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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m src.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a sweep's folder, or any that holds run folders")
    parser.add_argument("--scaling", metavar="SIZE", help="fit loss against this size")
    words = parser.parse_args(argv)
    with errors_for_people():
        from src.tracking.recorded import read_runs

        runs = read_runs(words.folder)
        rank(runs)
        if words.scaling:
            scaling(words.folder, runs, words.scaling)


if __name__ == "__main__":
    main(sys.argv[1:])
