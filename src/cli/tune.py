"""Command line of `python -m src.tune`: run the stages of the tuning order, and print what each gained."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from src.cli.hydra_app import run_with_hydra
from src.config.overrides import quote_override
from src.core.console import echo
from src.core.errors import UserError


def tune(argv: Sequence[str]) -> Path:
    """Run the stages, and return the page with the gain of each.

    Args:
        argv: overrides as for ``python -m src.train``, and ``budget=``.

    Raises:
        UserError: if the overrides are invalid.
        KeyboardInterrupt: after Ctrl-C; the same command continues.
    """
    from src.cli.train import job
    from src.sweeping.tuning.stages import Stage, Tuning

    overrides = [quote_override(override) for override in argv if not override.startswith("budget=")]
    for override in overrides:
        if override.startswith(("-", "sweep.", "resume=", "search=")):
            raise UserError(f"{override}: tuning makes its own sweeps; it takes the overrides of one run, and budget=")
    for override in overrides:
        if override.startswith("cross_validation."):
            raise UserError(f"{override}: stages compare single jobs; tune first, then cross-validate the experiment")
    tuning = Tuning(overrides, _budget(argv), lambda command: run_with_hydra(job, command))
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
        raise KeyboardInterrupt("the same command continues the tuning") from None
    echo(f"\ntuned; experiment: {file}\n  python -m src.train {shlex.join(command)}\ngain of each stage: {page}")
    return page


def _budget(argv: Sequence[str]) -> int | None:
    """Return the value of the last ``budget=``; None without one."""
    values = [override.partition("=")[2] for override in argv if override.startswith("budget=")]
    if not values:
        return None
    if not values[-1].isdigit():
        raise UserError(f"budget={values[-1]}: must be a whole number of jobs")
    return int(values[-1])
