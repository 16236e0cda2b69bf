"""Pixels: their standardisation per channel, and rows of pixels in CSV."""

import numpy as np
import torch
from torch import Tensor

from src.core.errors import UserError
from src.datamodules.io.numeric_table import read_rows
from src.datamodules.standardizer import Standardizer


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
