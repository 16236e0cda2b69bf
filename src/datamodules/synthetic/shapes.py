"""Generated images of ten geometric shapes, in colour or grey."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.core.data_spec import SPLITS
from src.core.resources import check_generated_size
from src.datamodules.splits.cross_validation import apply_fold
from src.datamodules.vision.pixels import Arrays, ImagesInMemory

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow


def _polygon(angle: NDArray, corners: int) -> NDArray:
    half = np.pi / corners
    return np.cos(half) / np.cos(np.mod(angle, 2 * half) - half)


def _star(angle: NDArray, points: int, inner: float) -> NDArray:
    """Return the radius of a star: straight lines between points at radius 1 and notches at `inner`."""
    half = np.pi / points
    offset = np.abs(np.mod(angle + half, 2 * half) - half)  # angle from the nearest point, at most half
    return inner * np.sin(half) / (inner * np.sin(half - offset) + np.sin(offset))


SHAPES: dict[str, Callable[[NDArray], NDArray]] = {
    "circle": lambda angle: np.ones_like(angle),
    "half": lambda angle: np.where(np.mod(angle, 2 * np.pi) < np.pi, 1.0, 0.0),
    "ellipse": lambda angle: 0.45 / np.sqrt(1 - (1 - 0.45**2) * np.cos(angle) ** 2),
    "triangle": lambda angle: _polygon(angle, 3),
    "square": lambda angle: _polygon(angle, 4),
    "hexagon": lambda angle: _polygon(angle, 6),
    "spark": lambda angle: _star(angle, 4, 0.38),
    "star": lambda angle: _star(angle, 5, 0.45),
    "clover": lambda angle: 0.25 + 0.75 * np.abs(np.cos(1.5 * angle)),
    "flower": lambda angle: 0.75 + 0.25 * np.cos(8 * angle),
}
"""Radius of the outline of each shape, at most 1, as a function of the angle."""


def draw(shapes: NDArray, side: int, generator: np.random.Generator) -> NDArray:
    """Draw images, each with a shape of random position, size, angle and colour on a background of another colour.

    Args:
        shapes: [N] indices into `SHAPES`.
        side: side length in pixels.
        generator: source of all randomness.

    Returns:
        [N, 3, side, side] from 0 to 255.
    """

    def draw_per_image(low: float | NDArray, high: float | NDArray) -> NDArray:
        return generator.uniform(low, high, (len(shapes), 1, 1))

    radius = draw_per_image(0.25, 0.45) * side
    row, column = draw_per_image(radius, side - radius), draw_per_image(radius, side - radius)
    rows, columns = np.mgrid[:side, :side] + 0.5
    distance = np.hypot(rows - row, columns - column)
    angle = np.arctan2(rows - row, columns - column) + draw_per_image(0, 2 * np.pi)
    outlines = list(SHAPES.values())
    outline = np.stack([outlines[shape](angles) for shape, angles in zip(shapes, angle, strict=True)])
    coverage = np.clip(radius * outline - distance + 0.5, 0, 1)[:, None]  # anti-aliased border
    ink, ground = _colours(len(shapes), generator)
    return coverage * ink + (1 - coverage) * ground


def _colours(count: int, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Draw two colours per image [N, 3, 1, 1], one bright and one dark, in random order."""
    bright, dark = generator.uniform(130, 255, (count, 3, 1, 1)), generator.uniform(0, 100, (count, 3, 1, 1))
    swapped = generator.random((count, 1, 1, 1)) < 0.5
    return np.where(swapped, dark, bright), np.where(swapped, bright, dark)


class Shapes(ImagesInMemory):
    """Images of ten shapes, all classes equally often; position, size, angle and colours are independent of the class.

    Args:
        side: side length of an image in pixels.
        channels: 3 for RGB, 1 for grey.
        train_size, val_size, test_size: number of images.
        noise: standard deviation of the Gaussian noise on every pixel, as a share of the brightest value.
        split_seed: seed of the images.
        common: arguments of `DataModule`.
    """

    classes = tuple(SHAPES)

    def __init__(
        self,
        side: int = 32,
        channels: int = 3,
        train_size: int = 4000,
        val_size: int = 1000,
        test_size: int = 1000,
        noise: float = 0.05,
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.side = side
        self.channels = channels
        self.shape = (channels, side, side)
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.noise = noise
        self.split_seed = split_seed

    def read_splits(self) -> dict[str, Arrays]:
        count = sum(self.sizes.values())  # about 20 numbers of 8 bytes per pixel
        needed = 160 * self.side**2 * count
        check_generated_size(needed, f"datamodule.side={self.side} with {count:,} images")
        return apply_fold({name: self._draw(name) for name in SPLITS}, self.fold, classes=itemgetter(1))

    def _draw(self, split: str) -> Arrays:
        """Return images [N, C, H, W] uint8, and labels [N]."""
        generator = np.random.default_rng([self.split_seed, SPLITS.index(split)])
        labels = generator.permutation(np.arange(self.sizes[split]) % len(SHAPES))
        images = draw(labels, self.side, generator)
        if self.channels == 1:
            images = np.einsum("nchw,c->nhw", images, _LUMINANCE)[:, None]
        images += 255 * self.noise * generator.standard_normal(images.shape)
        return images.round().clip(0, 255).astype(np.uint8), labels

    def example_inputs(self, count: int = 3) -> list[str]:
        images, _ = self._draw("test")
        return [",".join(map(str, image.ravel())) for image in images[:count]]
