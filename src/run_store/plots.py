"""Pictures of a run: a PNG in plots/ of its folder, and the same in Weights & Biases.

A figure is made with ``matplotlib.figure.Figure`` and not with pyplot, which keeps figures alive and looks for a screen.
"""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from src.core.files import write_below

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from matplotlib.figure import Figure


def save_picture(folder: Path, name: str, figure: "Figure", loggers: "Iterable[Logger]" = ()) -> Path:
    """Write a figure and return its file; an earlier picture of this name is replaced as a whole, and no link is followed.

    Args:
        folder: the run's folder.
        name: what it shows, such as ``schedule``: the file is plots/<name>.png.
        figure: what to draw.
        loggers: of the run; Weights & Biases gets the picture as ``plots/<name>``.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    path = folder / "plots" / f"{name}.png"
    contents = BytesIO()
    for text in figure.findobj(Text):  # TeX would run commands that a name contains
        text.set_usetex(False)  # type: ignore[attr-defined]
    with rc_context({"text.usetex": False}):
        figure.savefig(contents, dpi=120, bbox_inches="tight", format="png")
    folder.mkdir(parents=True, exist_ok=True)
    write_below(folder, path.relative_to(folder), contents.getvalue(), make=True)
    for logger in loggers:
        from lightning.pytorch.loggers import WandbLogger  # a comparison draws without loading torch

        if isinstance(logger, WandbLogger):
            with TemporaryDirectory() as place:  # the client opens a picture by its path, and would follow a link
                copy = Path(place, path.name)
                copy.write_bytes(contents.getvalue())
                logger.log_image(f"plots/{name}", [str(copy)])
    return path
