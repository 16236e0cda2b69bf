"""Train: python -m src.train model=transformer optimizer=adamw

With `-m`, a sweep over comma-separated values; with `resume=<run folder>`, the rest of an interrupted run.
"""

import os
import sys
from collections.abc import Sequence

from src.cli.hydra_app import consume_trust_flags, errors_for_people, help_text, run_to_resume, run_with_hydra
from src.cli.train import job, resume
from src.core.console import echo
from src.core.process import end_with_parent


def main(argv: Sequence[str] = ()) -> None:
    """Run the command line."""
    if {"GRIDLIGHT_LIFELINE", "LOCAL_RANK"} & set(os.environ):  # started by another process of the same job
        end_with_parent()
    with errors_for_people():
        arguments = consume_trust_flags(list(argv) or sys.argv[1:])
        if {"-h", "--help"} & set(arguments):
            echo(help_text(arguments))
        elif path := run_to_resume(arguments):
            sys.argv[1:] = arguments  # the command that is recorded
            resume(path, arguments)
        else:
            if {"-m", "--multirun"} & set(arguments):
                from src.sweeping.launchers.fork_server import begin_early

                begin_early(arguments)
            run_with_hydra(job, arguments)


if __name__ == "__main__":
    main()
