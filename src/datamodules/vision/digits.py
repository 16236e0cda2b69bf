"""Handwritten digits that are shipped with scikit-learn."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.datamodules.io.image_files import is_image, open_image
from src.datamodules.splits.holdout import split_indices
from src.datamodules.standardizer import StandardizedData, Standardizer
from src.datamodules.vision.pixels import read_pixel_rows

log = logging.getLogger(__name__)

SIDE, BRIGHTEST = 8, 16.0


class Digits(StandardizedData):
    """1,797 images of digits, 8×8, bright ink on dark background (0 to 16); standardised with one mean and deviation.

    Args:
        split_seed: seed of the split, which is stratified by class.
        val_fraction, test_fraction: shares of the 1,797 examples.
        common: arguments of `DataModule`.
    """

    task = "classification"
    inputs = "image"
    supports_folds = True

    def __init__(
        self, split_seed: int = 0, val_fraction: float = 0.15, test_fraction: float = 0.15, **common: Any
    ) -> None:
        super().__init__(**common)
        self.split_seed = split_seed
        self.fractions = (val_fraction, test_fraction)

    def load(self) -> dict[str, Batch]:
        pixels, labels = _read_data()
        parts = split_indices(len(labels), *self.fractions, self.split_seed, labels, self.fold)
        images = torch.tensor(pixels, dtype=torch.float32)
        if self.scale is None:
            self.scale = Standardizer.fit(images[parts["train"]].reshape(-1, 1))
        images = self._standardize(images)
        targets = torch.tensor(labels, dtype=torch.int64)
        return {name: LabelledBatch(images[index], targets[index]) for name, index in parts.items()}

    def _standardize(self, pixels: Tensor) -> Tensor:
        assert self.scale is not None
        return self.scale.apply(pixels.reshape(-1, 1, SIDE, SIDE, 1)).squeeze(-1)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            self.task, self.inputs, (1, SIDE, SIDE), (10,), class_names=tuple(str(digit) for digit in range(10))
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is an image of any size (bright on dark background), or 64 numbers (0 to 16) as a CSV row or file."""
        pixels = [
            _read_image(text) if is_image(text) else read_pixel_rows(text, SIDE * SIDE, BRIGHTEST) for text in inputs
        ]
        images = torch.tensor(np.concatenate(pixels), dtype=torch.float32)
        return LabelledBatch(self._standardize(images), torch.zeros(len(images), dtype=torch.int64))

    def example_inputs(self, count: int = 3) -> list[str]:
        pixels, labels = _read_data()
        test = split_indices(len(labels), *self.fractions, self.split_seed, labels)["test"][:count]
        return [",".join(f"{value:g}" for value in row) for row in pixels[test]]


def _read_data() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels [1797, 64] and labels [1797] from the data file of scikit-learn, whose import would take half a second."""
    package = find_spec("sklearn")
    assert package is not None and package.submodule_search_locations
    rows = np.loadtxt(Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"), delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)


def _read_image(path: str) -> np.ndarray:
    """Average the pixels of each field of an 8×8 grid, as in the creation of the data set with 4×4 pixels per field."""
    grey = open_image(path).convert("L").convert("F")
    small = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float64).reshape(1, -1) * (BRIGHTEST / 255)
    if pixels.mean() > BRIGHTEST / 2:
        log.warning(
            f"{path}: most of this image is bright, but the model expects bright digits on dark background: invert it"
        )
    return pixels
