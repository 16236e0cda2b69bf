"""Compare runs: `python -m src.compare`. Its help is in `src.cli.compare`."""

import sys
from collections.abc import Sequence

from src.cli.compare import parser, run
from src.cli.help import print_topic_help
from src.cli.hydra_app import report_user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = sys.argv[1:] if argv is None else argv
    with report_user_errors():
        if print_topic_help(arguments):
            return
        options = parser().parse_intermixed_args(arguments)
        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
