"""Doctor: python -m src.doctor

Prints what is installed, which devices are available, what is missing, and whether W&B can be reached. The exit code is 1 if
something that every run needs is missing.

python -m src.doctor resume model=cnn regularization=dropout trainer.max_epochs=3 trains this run once without interruption
and once interrupted at random steps (Ctrl-C and kill) and resumed, and compares the two. The exit code is 1 if they differ.
The overrides are those of src.train; an experiment may be given by its name: python -m src.doctor resume dates_paper.
"""

import sys

from src.cli.doctor import findings, print_resume_check, run_overrides
from src.cli.help import print_topic_help
from src.cli.hydra_app import report_user_errors
from src.core.console import echo
from src.core.errors import UserError, nearest

_STATES = {True: "ok", None: "without", False: "MISSING"}


def main() -> None:
    """Print all findings, or check that a run resumes exactly."""
    argv = sys.argv[1:]
    if {"-h", "--help"} & set(argv):
        with report_user_errors():
            if not print_topic_help(argv):
                echo(__doc__)
        return
    if argv:
        with report_user_errors():
            if argv[0] == "resume":
                raise SystemExit(0 if print_resume_check(run_overrides(argv[1:])) else 1)
            raise UserError(
                f"{argv[0]}: {nearest(argv[0], ['resume'])} Without an argument, doctor checks the installation."
            )
    complete = True
    for good, line in findings():
        echo(f"{_STATES[good]:<7} {line}", flush=True)
        complete = complete and good is not False
    raise SystemExit(0 if complete else 1)


if __name__ == "__main__":
    main()
