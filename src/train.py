"""Train: python -m src.train model=transformer optimizer=adamw

With `-m`, a sweep over comma-separated values; with `resume=<run folder>`, the rest of an interrupted run.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.config.command_line import errors_for_people, help_text, run_to_resume, run_with_hydra, without_trust_flags
from src.core.console import echo
from src.errors import UserError
from src.lifeline import end_with_parent

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(cfg: "DictConfig") -> float | None:
    """Check a composed config and run it; the best value of the monitored metric goes back to Hydra."""
    from src.config.check import check
    from src.config.trust import trust_own_config

    if cfg.sweep.resume or cfg.sweep.dry_run:
        raise UserError("sweep.resume and sweep.dry_run are for sweeps, which begin with -m")
    if cfg.search.name != "grid":
        raise UserError(f"search={cfg.search.name} is for sweeps, which begin with -m")
    if cfg.resume is not None:
        return _resume(cfg.resume, sys.argv[1:])
    config = check(cfg)
    trust_own_config(cfg)
    from src.experiment import run

    return run(config).value


def _resume(path: str, words: Sequence[str]) -> float | None:
    from src.config.compose import resumed

    config, folder = resumed(path, words)
    from src.experiment import resume

    return resume(config, folder).value


def main(argv: Sequence[str] = ()) -> None:
    """Run the command line."""
    if {"GRIDLIGHT_LIFELINE", "LOCAL_RANK"} & set(os.environ):  # started by another process of the same job
        end_with_parent()
    words = list(argv) or sys.argv[1:]
    with errors_for_people():
        words = without_trust_flags(words)
        if {"-h", "--help"} & set(words):
            echo(help_text(words))
        elif path := run_to_resume(words):
            sys.argv[1:] = words  # the command that is recorded
            _resume(path, words)
        else:
            if {"-m", "--multirun"} & set(words):
                from src.sweeping.fork_server import begin_early

                begin_early(words)
            run_with_hydra(job, words)


if __name__ == "__main__":
    main()
