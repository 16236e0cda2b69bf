"""Preview: python -m src.preview <what> [words of a run …], such as: schedule scheduler=cosine optimizer.lr=0.1

Draws what a run would do, before it trains: the words are those of python -m src.train.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.hydra_app import errors_for_people
from src.config.compose import compose
from src.core.console import Parser, echo
from src.core.errors import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from src.config.schema.run import Config
    from src.core import tables

PICTURES = {
    "schedule": ("src.diagnostics.schedule_preview", "schedule_picture", "the learning rate of every step"),
    "learning_rate": (
        "src.diagnostics.learning_rate_range_test",
        "range_test_picture",
        "the loss while the rate grows; suggests one",
    ),
    "augmentation": (
        "src.diagnostics.augmentation_preview",
        "augmentation_preview",
        "training images, sounds or texts, augmented and mixed",
    ),
}
"""What can be drawn: the module and the function that draws it from a checked config, and what it shows."""


def preview(what: str, words: Sequence[str]) -> "tuple[Figure | tables.Rows, Path]":
    """Draw a picture of a run before it trains, and return it with its file, preview/plots/<what>.png of the outputs.
    What are texts is printed as a table, and written into preview/<what>.md.

    Args:
        what: a name in `PICTURES`.
        words: as after ``python -m src.train``.

    Raises:
        UserError: if there is no such picture, or if the words make no run.
    """
    if what not in PICTURES:
        raise UserError(f"{what}: there is no such picture. {nearest(what, PICTURES)}")
    from src.config.validate import check

    config = check(compose(words))
    module, name, _ = PICTURES[what]
    draw: Callable[[Config], Any] = getattr(import_module(module), name)
    from src.core.files import make_folder_below
    from src.core.tables import Rows
    from src.run_store.plots import save_picture
    from src.run_store.tables import show_table

    config.paths.outputs.mkdir(parents=True, exist_ok=True)
    folder = make_folder_below(config.paths.outputs, "preview")
    drawn = draw(config)
    if isinstance(drawn, Rows):
        return drawn, show_table(folder, what, *drawn)
    return drawn, save_picture(folder, what, drawn)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser("python -m src.preview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shown = ", ".join(f"{name} ({text})" for name, (_, _, text) in PICTURES.items())
    parser.add_argument("what", help=f"the picture: {shown}")
    parser.add_argument("words", nargs="*", metavar="group=option", help="the run, as for python -m src.train")
    arguments = parser.parse_args(argv)
    with errors_for_people():
        drawn, path = preview(arguments.what, arguments.words)
        if not isinstance(drawn, tuple):  # a table has its title
            echo(drawn.get_suptitle())
        echo(path)


if __name__ == "__main__":
    main(sys.argv[1:])
