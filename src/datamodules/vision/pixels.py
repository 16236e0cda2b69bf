"""Images of bytes in memory, standardised per channel, and rows of pixels in CSV."""

from abc import abstractmethod
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.datamodules.io.image_files import is_image, read_image
from src.datamodules.io.numeric_table import read_rows
from src.datamodules.standardizer import StandardizedData, Standardizer

Arrays = tuple[np.ndarray, np.ndarray]
"""Images [N, C, H, W] uint8 and labels [N]."""


class ImagesInMemory(StandardizedData):
    """Labelled images of one size, standardised with mean and deviation per channel of the training split.

    Args:
        common: arguments of `DataModule`.
    """

    task = "classification"
    inputs = "image"
    supports_folds = True
    shape: tuple[int, int, int]
    classes: tuple[str, ...]

    @abstractmethod
    def read_splits(self) -> dict[str, Arrays]:
        """Return the images and labels of each split."""

    def load(self) -> dict[str, Batch]:
        splits = self.read_splits()
        if self.scale is None:
            self.scale = fit_pixel_scale(splits["train"][0])
        return {
            name: LabelledBatch(standardize_pixels(pixels, self.scale), torch.from_numpy(labels.astype(np.int64)))
            for name, (pixels, labels) in splits.items()
        }

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.task, self.inputs, self.shape, (len(self.classes),), class_names=self.classes)

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is an image file of any size, which is converted and resized, or a CSV row or file of bytes,
        channel by channel and row by row.
        """
        pixels = np.concatenate([self._pixels(text) for text in inputs])
        assert self.scale is not None
        return LabelledBatch(standardize_pixels(pixels, self.scale), torch.zeros(len(pixels), dtype=torch.int64))

    def _pixels(self, text: str) -> np.ndarray:
        if is_image(text):
            return read_image(text, self.shape)[None]
        values = read_pixel_rows(text, prod(self.shape), 255)
        return values.round().astype(np.uint8).reshape(-1, *self.shape)


def fit_pixel_scale(pixels: np.ndarray) -> Standardizer:
    """Return the exact mean and deviation of each channel, computed from the histogram of the 256 values.

    Args:
        pixels: [N, C, H, W] uint8.
    """
    values = np.arange(256.0)
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = np.bincount(pixels[:, channel].ravel(), minlength=256)
        mean = float((counts * values).sum() / counts.sum())
        means.append(mean)
        deviations.append(float(((counts * (values - mean) ** 2).sum() / counts.sum()) ** 0.5) or 1.0)
    return Standardizer(tuple(means), tuple(deviations))


def standardize_pixels(pixels: np.ndarray, scale: Standardizer) -> Tensor:
    """Standardise images [N, C, H, W] uint8 to float32 in place: some sets need a gigabyte."""
    mean, deviation = (torch.tensor(row).view(1, -1, 1, 1) for row in (scale.mean, scale.deviation))
    return torch.from_numpy(pixels).float().sub_(mean).div_(deviation)


def read_pixel_rows(text: str, count: int, largest: float) -> np.ndarray:
    """Return the pixels [N, count] of a CSV row or file.

    Raises:
        UserError: if a pixel is not a number from 0 to `largest`.
    """
    pixels = np.array(read_rows([text], count))
    for row, column in np.argwhere((pixels < 0) | (pixels > largest)):
        value = pixels[row, column]
        raise UserError(f"'{text[:60]}', row {row + 1}, column {column + 1}: {value:g} is outside 0 to {largest:g}")
    return pixels
