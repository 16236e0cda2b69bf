"""A picture is on disk as a whole or not at all, and Weights & Biases gets it too."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure
from PIL import Image

from src.tracking.pictures import save_picture


class Recorder(WandbLogger):
    def __init__(self) -> None:
        self.images: list[tuple[str, list[str]]] = []

    def log_image(self, key: str, images: list[str], *args: object, **kwargs: object) -> None:
        self.images.append((key, images))


def test_a_picture_is_a_png_in_plots_and_in_wandb(tmp_path: Path) -> None:
    figure, logger = Figure(), Recorder()
    figure.subplots().plot([1, 2], [3, 4])
    path = save_picture(tmp_path, "curve", figure, [logger])
    assert path == tmp_path / "plots" / "curve.png" and logger.images == [("plots/curve", [str(path)])]
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 200 and len(image.convert("L").getcolors()) > 10


def test_a_failed_drawing_leaves_the_old_picture(tmp_path: Path) -> None:
    path = save_picture(tmp_path, "curve", Figure())
    before = path.read_bytes()
    broken = Figure()
    broken.text(0.5, 0.5, "$\\frac$")  # no formula
    with pytest.raises(ValueError):
        save_picture(tmp_path, "curve", broken)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
