"""Sync: python -m src.sync [folder …] uploads the runs in these folders that Weights & Biases recorded on disk (all of outputs/)

These are runs that were recorded offline, runs whose connection to the server was lost, and, of killed runs, what their
folders have and the server does not. Each is uploaded once; after an interruption the same command continues. A run that is
running, or that another process is uploading, is skipped. Runs go to your own entity and projects: those of
conf/logger/wandb.yaml, of your W&B settings, WANDB_ENTITY and WANDB_PROJECT.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli.hydra_app import parse_arguments, report_user_errors
from src.cli.sync import sync
from src.core.console import Parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser("python -m src.sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("outputs")], help="folders with runs (outputs)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be uploaded, and stop")
    options = parse_arguments(parser, argv)
    with report_user_errors():
        if not sync(options.folders, options.dry_run):
            raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
