"""Save figures of a run as PNG files in plots/ of its folder and in Weights & Biases.

Figures are made with ``matplotlib.figure.Figure`` instead of pyplot, which keeps figures alive and looks for a display.
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


def save_figure(folder: Path, name: str, figure: "Figure", loggers: "Iterable[Logger]" = ()) -> Path:
    """Write a figure to plots/<name>.png and return the path. An earlier file is replaced atomically; no link is followed.

    Args:
        folder: the run's folder.
        name: name of the figure, such as ``schedule``.
        figure: the figure.
        loggers: loggers of the run; Weights & Biases gets the figure as ``plots/<name>``.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    path = folder / "plots" / f"{name}.png"
    contents = BytesIO()
    for text in figure.findobj(Text):  # TeX would run commands that are part of a text
        text.set_usetex(False)  # type: ignore[attr-defined]
    with rc_context({"text.usetex": False}):
        figure.savefig(contents, dpi=120, bbox_inches="tight", format="png")
    folder.mkdir(parents=True, exist_ok=True)
    write_below(folder, path.relative_to(folder), contents.getvalue(), make=True)
    for logger in loggers:
        from lightning.pytorch.loggers import WandbLogger  # lazy: a comparison draws without torch

        if isinstance(logger, WandbLogger):
            with TemporaryDirectory() as temporary:  # the client opens an image by its path, and would follow a link
                copy = Path(temporary, path.name)
                copy.write_bytes(contents.getvalue())
                logger.log_image(f"plots/{name}", [str(copy)])
    return path
