"""Find, tag, delete, train again and export runs: `python -m src.runs`. Its help is in `src.cli.runs`."""

import os
import sys
from collections.abc import Sequence

from src.cli.hydra_app import parse_arguments, report_user_errors
from src.cli.runs import parser, run
from src.core.process import set_parent_death_signal


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    if "LOCAL_RANK" in os.environ:  # started by another process of the same run
        set_parent_death_signal()
    options = parse_arguments(parser(), argv)
    with report_user_errors():
        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
