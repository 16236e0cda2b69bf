"""Compare runs: `python -m src.compare`. Its help is in `src.cli.compare`."""

import sys
from collections.abc import Sequence

from src.cli.compare import parser, run
from src.cli.hydra_app import report_user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parser().parse_intermixed_args(argv)
    with report_user_errors():
        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
