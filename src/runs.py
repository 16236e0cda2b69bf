"""Find, tag, delete, train again and export runs: `python -m src.runs`. Its help is in `src.cli.runs`."""

import os
import sys
from collections.abc import Sequence

from src.cli.hydra_app import errors_for_people, parse_arguments
from src.cli.runs import parser, run
from src.core.process import end_with_parent


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    if "LOCAL_RANK" in os.environ:  # started by another process of the same run
        end_with_parent()
    options = parse_arguments(parser(), argv)
    with errors_for_people():
        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
