"""Figures are written atomically, and logged to Weights & Biases."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import WandbLogger
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from src.core.files import UnsafeFileError
from src.run_store.plots import save_figure


class Recorder(WandbLogger):
    def __init__(self) -> None:
        self.images: list[tuple[str, bytes]] = []

    def log_image(self, key: str, images: list[str], *args: object, **kwargs: object) -> None:
        (image,) = map(Path, images)
        assert image.name == "curve.png"
        self.images.append((key, image.read_bytes()))


def test_a_figure_is_a_png_in_plots_and_in_wandb(tmp_path: Path) -> None:
    figure, logger = Figure(), Recorder()
    figure.subplots().plot([1, 2], [3, 4])
    path = save_figure(tmp_path, "curve", figure, [logger])
    assert path == tmp_path / "plots" / "curve.png" and logger.images == [("plots/curve", path.read_bytes())]
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 200 and len(image.convert("L").getcolors()) > 10


def test_a_failed_drawing_leaves_the_old_file(tmp_path: Path) -> None:
    path = save_figure(tmp_path, "curve", Figure())
    before = path.read_bytes()
    broken = Figure()
    broken.text(0.5, 0.5, "$\\frac$")  # no formula
    with pytest.raises(ValueError):
        save_figure(tmp_path, "curve", broken)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("link", ["plots", "plots/curve.png", "plots/.curve.png.partial"])
def test_no_link_is_followed(link: str, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "curve.png").write_text("mine")
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(outside if link == "plots" else outside / "curve.png")
    if link == "plots":
        with pytest.raises(UnsafeFileError, match="this is a link"):
            save_figure(folder, "curve", Figure())
    else:
        assert not save_figure(folder, "curve", Figure()).is_symlink()
    assert [file.read_text() for file in outside.iterdir()] == ["mine"]


def test_no_text_is_passed_to_tex(tmp_path: Path) -> None:
    with rc_context({"text.usetex": True}):
        figure = Figure()
        figure.subplots().set_title("\\input{/etc/passwd}")
        assert save_figure(tmp_path, "curve", figure).is_file()
