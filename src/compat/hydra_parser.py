"""Hydra's parser of command-line flags.

Tested with Hydra 1.3. Gain: flags that a version of Hydra adds are understood. The fallback knows the flags of Hydra 1.3.
"""

import argparse

from src.compat.stock import is_stock, log_fallback, missing_name
from src.core.console import Parser


def get_args_parser() -> argparse.ArgumentParser:
    """Return a parser of Hydra's flags and of the overrides beside them."""
    try:
        if is_stock():
            raise ImportError
        from hydra._internal.utils import get_args_parser as hydra_parser

        return hydra_parser()
    except ImportError as error:
        log_fallback("flags of the command line are those of Hydra 1.3", missing_name(error))
    parser = Parser(add_help=False, description="Hydra")
    parser.add_argument("overrides", nargs="*")
    for flags in (
        ("--help", "-h"),
        ("--hydra-help",),
        ("--version",),
        ("--resolve",),
        ("--run", "-r"),
        ("--multirun", "-m"),
    ):
        parser.add_argument(*flags, action="store_true")
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    for flags in (("--package", "-p"), ("--config-path", "-cp"), ("--config-name", "-cn"), ("--config-dir", "-cd")):
        parser.add_argument(*flags)
    parser.add_argument("--experimental-rerun")
    topics = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    parser.add_argument("--info", "-i", const="all", nargs="?", choices=topics)
    return parser
