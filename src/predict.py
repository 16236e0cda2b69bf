"""Predict: python -m src.predict <run folder or checkpoint> <input> [<input> …] [--json] [--output predictions.csv]

Inputs are raw data of the kind that the model was trained on: an image or a sound file, a folder of them, a CSV row or file, a
text or a file of texts, a date, the past of a series, a prompt. A language model's text is printed while it is generated.
"""

import sys
from collections.abc import Sequence

from src.cli.hydra_app import parse_arguments, report_user_errors
from src.cli.predict import parser, print_predictions


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parse_arguments(parser(__doc__), argv)
    with report_user_errors():
        print_predictions(options)


if __name__ == "__main__":
    main(sys.argv[1:])
