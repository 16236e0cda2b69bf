"""Train: python -m src.train model=transformer optimizer=adamw

With `-m`, a sweep over comma-separated values; with `resume=<run folder>`, the rest of an interrupted run.
"""

import os
import sys
from collections.abc import Sequence

from src.cli.help import help_text, help_topic
from src.cli.hydra_app import consume_trust_flags, report_user_errors, run_to_resume, run_with_hydra
from src.cli.train import job, resume
from src.core.console import echo
from src.core.process import set_parent_death_signal


def main(argv: Sequence[str] = ()) -> None:
    """Run the command line."""
    if {"GRIDLIGHT_PARENT_DEATH", "LOCAL_RANK"} & set(os.environ):  # started by another process of the same job
        set_parent_death_signal()
    with report_user_errors():
        arguments = consume_trust_flags(list(argv) or sys.argv[1:])
        if (topic := help_topic(arguments)) is not None:
            echo(help_text(topic, arguments))
        elif path := run_to_resume(arguments):
            sys.argv[1:] = arguments  # the command that is recorded
            resume(path, arguments)
        else:
            if {"-m", "--multirun"} & set(arguments):
                from src.sweeping.launchers.fork_server import start_early

                start_early(arguments)
            run_with_hydra(job, arguments)


if __name__ == "__main__":
    main()
