"""Tune: python -m src.tune model=cnn datamodule=fashion_mnist budget=40

Tunes in the textbook's order: learning rate, batch size, architecture, regularization, scheduler. Each stage is a sweep that
starts from the best job of the stage before; the overrides are those of python -m src.train. budget=N is the largest number of
jobs in all; without it, every point of the ranges of sweeps/ is trained. After an interruption the same command continues.
"""

import sys

from src.cli.help import print_topic_help
from src.cli.hydra_app import report_user_errors
from src.cli.tune import tune
from src.core.console import echo


def main() -> None:
    """Run the command line."""
    overrides = sys.argv[1:]
    with report_user_errors():
        if print_topic_help(overrides):
            return
        if {"-h", "--help"} & set(overrides):
            echo(__doc__)
        else:
            tune(overrides)


if __name__ == "__main__":
    main()
