"""Train: python -m src.train model=transformer optimizer=adamw

With `-m`, a sweep over comma-separated values; with `resume=<run folder>`, the rest of an interrupted run.
"""

import os
import sys
from collections.abc import Sequence

from src.cli.hydra_app import errors_for_people, help_text, run_to_resume, run_with_hydra, without_trust_flags
from src.cli.train import _resume, job
from src.core.console import echo
from src.core.process import end_with_parent


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
                from src.sweeping.launchers.fork_server import begin_early

                begin_early(words)
            run_with_hydra(job, words)


if __name__ == "__main__":
    main()
