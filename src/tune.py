"""Tune: python -m src.tune model=cnn datamodule=fashion_mnist budget=40

The textbook's order: learning rate, batch size, architecture, regularization, scheduler. Each stage is a sweep that starts
from the best of the stage before; the words are those of python -m src.train. budget=N is the most jobs that are trained in
all; without it, every point of the ranges of sweeps/ is. The same command goes on where it was stopped.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli.hydra_app import errors_for_people, run_with_hydra
from src.core.console import echo
from src.core.errors import UserError


def tune(words: Sequence[str]) -> Path:
    """Run the stages, and return the page that tells what each gained.

    Args:
        words: as after ``python -m src.train``, and ``budget=``.

    Raises:
        UserError: if the words make no run.
        KeyboardInterrupt: after Ctrl-C; the same command goes on.
    """
    from src.cli.train import job
    from src.config.overrides import readable
    from src.sweeping.tuning.stages import Stage, Tuning

    own = [readable(word) for word in words if not word.startswith("budget=")]
    if wrong := [word for word in own if word.startswith(("-", "sweep.", "resume=", "search="))]:
        raise UserError(f"{wrong[0]}: tuning makes its own sweeps; it takes the words of one run, and budget=")
    if folds := [word for word in own if word.startswith("cross_validation.")]:
        raise UserError(f"{folds[0]}: stages compare single jobs; tune first, then cross-validate the experiment")
    tuning = Tuning(own, _budget(words), lambda command: run_with_hydra(job, command))
    from src.sweeping.tuning.report import write_experiment, write_page

    stages: list[Stage] = []
    title = f"{tuning.start.model.name} on {tuning.start.datamodule.name}"
    try:
        for stage in tuning.run():
            stages.append(stage)
            file, command = write_experiment(tuning.folder, tuning.name, stages, tuning.config_folders)
            page = write_page(tuning.folder, title, stages, command)
            echo(f"after {stage.name}: {stage.best.state.metric} {stage.best.state.value:.4g}, see {page}", flush=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on with the tuning") from None
    echo(
        f"\ntuned; the experiment is {file}\n  python -m src.train {shlex.join(command)}\nwhat each stage gained: {page}"
    )
    return page


def _budget(words: Sequence[str]) -> int | None:
    given = [word.partition("=")[2] for word in words if word.startswith("budget=")]
    if not given:
        return None
    if not given[-1].isdigit():
        raise UserError(f"budget={given[-1]}: must be a whole number of jobs")
    return int(given[-1])


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    with errors_for_people():
        if {"-h", "--help"} & set(words):
            echo(__doc__)
        else:
            tune(words)


if __name__ == "__main__":
    main()
