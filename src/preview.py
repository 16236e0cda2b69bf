"""Preview: python -m src.preview <subject> [override …], such as: schedule scheduler=cosine optimizer.lr=0.1

Draws what a run would do, before it trains. The overrides are those of python -m src.train.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.hydra_app import parse_arguments, report_user_errors
from src.config.compose import compose
from src.core.console import Parser, echo
from src.core.errors import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from src.config.schema.run import Config
    from src.core import tables

PREVIEWS = {
    "schedule": ("src.diagnostics.schedule_preview", "schedule_figure", "the learning rate of every step"),
    "learning_rate": (
        "src.diagnostics.learning_rate_range_test",
        "range_test_figure",
        "the loss while the rate grows; suggests one",
    ),
    "augmentation": (
        "src.diagnostics.augmentation_preview",
        "augmentation_preview",
        "training images, sounds or texts, augmented and mixed",
    ),
}
"""Subjects: the module and the function that draws it from a validated config, and a description."""


def preview(subject: str, overrides: Sequence[str]) -> "tuple[Figure | tables.Rows, Path]":
    """Draw a plot of a run before it trains, write it to preview/plots/<subject>.png of the outputs, and return both.
    Texts are printed as a table instead, and written to preview/<subject>.md.

    Args:
        subject: a key of `PREVIEWS`.
        overrides: as for ``python -m src.train``.

    Raises:
        UserError: if there is no such subject, or if the overrides are invalid.
    """
    if subject not in PREVIEWS:
        raise UserError(f"{subject}: there is no such preview. {nearest(subject, PREVIEWS)}")
    from src.config.validate import check

    config = check(compose(overrides))
    module, name, _ = PREVIEWS[subject]
    draw: Callable[[Config], Any] = getattr(import_module(module), name)
    from src.core.files import make_folder_below
    from src.core.tables import Rows
    from src.run_store.plots import save_figure
    from src.run_store.tables import show_table

    config.paths.outputs.mkdir(parents=True, exist_ok=True)
    folder = make_folder_below(config.paths.outputs, "preview")
    result = draw(config)
    if isinstance(result, Rows):
        return result, show_table(folder, subject, *result)
    return result, save_figure(folder, subject, result)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser("python -m src.preview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = ", ".join(f"{name} ({text})" for name, (_, _, text) in PREVIEWS.items())
    parser.add_argument("subject", help=f"what to draw: {subjects}")
    parser.add_argument("overrides", nargs="*", metavar="group=option", help="the run, as for python -m src.train")
    options = parse_arguments(parser, argv)
    with report_user_errors():
        result, path = preview(options.subject, options.overrides)
        if not isinstance(result, tuple):  # show_table has printed a table with its title
            echo(result.get_suptitle())
        echo(path)


if __name__ == "__main__":
    main(sys.argv[1:])
