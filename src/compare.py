"""Compare runs: `python -m src.compare`. Its help is in `src.cli.compare`."""

import sys
from collections.abc import Sequence

from src.cli.compare import parser, run
from src.cli.hydra_app import errors_for_people


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parser().parse_intermixed_args(argv)
    with errors_for_people():
        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
