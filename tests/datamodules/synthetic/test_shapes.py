"""The shapes against geometry, and that nothing but the outline tells the class."""

from math import pi, sin, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.core.errors import UserError
from src.datamodules.synthetic.shapes import SHAPES, Shapes, draw

ANGLES = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
AREAS = {  # of outlines within the unit circle
    "circle": pi,
    "half": pi / 2,
    "ellipse": 0.45 * pi,
    "triangle": 3 * sqrt(3) / 4,
    "square": 2.0,
    "hexagon": 3 * sqrt(3) / 2,
    "spark": 4 * 0.38 * sin(pi / 4),
    "star": 5 * 0.45 * sin(pi / 5),
    "clover": 2 * pi * (0.25**2 + 2 * 0.25 * 0.75 * 2 / pi + 0.75**2 / 2) / 2,
    "flower": pi * (0.75**2 + 0.25**2 / 2),
}


@pytest.mark.parametrize("name", SHAPES)
def test_outline_encloses_the_area_of_its_shape(name: str) -> None:
    """½ ∫ r² dθ."""
    radius = SHAPES[name](ANGLES)
    assert radius.min() >= 0 and radius.max() <= 1 + 1e-12
    assert np.isclose((radius**2).mean() * pi, AREAS[name], rtol=1e-3)


def test_images_have_the_area_of_their_shape_and_are_complete() -> None:
    side = 96
    images = draw(np.arange(200) % len(SHAPES), side, np.random.default_rng(0))
    assert images.shape == (200, 3, side, side) and images.min() >= 0 and images.max() <= 255
    ground = images[:, :, 0, 0]
    inked = np.abs(images - ground[:, :, None, None]).sum(1) / np.abs(images - ground[:, :, None, None]).sum(1).max(
        (1, 2), keepdims=True
    )
    areas = inked.sum((1, 2))
    for number, name in enumerate(SHAPES):
        radii = np.sqrt(areas[number :: len(SHAPES)] / AREAS[name]) / side
        assert radii.min() > 0.24 and radii.max() < 0.46
    assert np.array_equal(images[:, :, 0, 0], images[:, :, -1, -1]), "no shape fills a corner"


def test_colours_are_independent_of_the_class() -> None:
    data = Shapes(side=16, train_size=4000, noise=0.0)
    x, labels = data.split("train")
    means = torch.stack([x[labels == number].mean((0, 2, 3)) for number in range(len(SHAPES))])
    assert means.abs().max() < 0.2, "standardised: the mean of all is 0"
    assert torch.equal(torch.bincount(labels), torch.full((10,), 400))


def test_channels_and_size_follow_the_config() -> None:
    data = Shapes(side=20, channels=1, train_size=20, val_size=10, test_size=10)
    assert data.split("train").inputs[0].shape == (20, 1, 20, 20) and data.spec.input_shape == (1, 20, 20)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_file_is_encoded_as_its_pixels(tmp_path: Path, channels: int) -> None:
    data = Shapes(channels=channels, train_size=20, val_size=10, test_size=10)
    data.setup()
    images, _ = data._draw("test")
    Image.fromarray(images[0].transpose(1, 2, 0).squeeze()).save(tmp_path / "shape.png")
    torch.testing.assert_close(data.encode([str(tmp_path / "shape.png")]).x, data.split("test").inputs[0][:1])
    Image.new("RGB", (100, 50)).save(tmp_path / "large.png")
    assert data.encode([str(tmp_path / "large.png")]).x.shape == (1, channels, 32, 32)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="not a readable image"):
        data.encode([str(tmp_path / "torn.png")])
    with pytest.raises(UserError, match="neither a file nor a row"):
        data.encode(["7"])
