"""A folder of images of the user: one subfolder per class, or the class in the file names."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import check_memory, fits_in_memory, usable_cores
from src.datamodules.base import DataModule
from src.datamodules.class_labels import class_numbers, classes_of
from src.datamodules.io.image_files import read_image, size_and_channels
from src.datamodules.io.labelled_folder import Labelled, expand_folders, labelled_files
from src.datamodules.preparation import DamagedPreparation, part, sizes, texts
from src.datamodules.splits.holdout import draw_missing_splits, split_paths
from src.datamodules.standardizer import Standardizer
from src.datamodules.vision.public_image_sets import pixel_scale

log = logging.getLogger(__name__)

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SCALE_SAMPLES = 2000
"""Training images from which mean and deviation are computed if not all fit into memory."""
MAX_LISTED = 5
"""Unreadable images that an error lists; further ones are counted."""

Result = TypeVar("Result")


class ImageFolder(DataModule):
    """Labelled images. Validation and test have their own folders, or are drawn, stratified by class.

    Pixels are standardised with mean and deviation per channel of the training split. If all images together need more
    than `memory_share` of the free memory, they are read batch by batch.

    Args:
        path: the data folder; with `val_path` and `test_path`, all of it is training data.
        pattern: position of the class in the path of a file below the folder, such as ``{label}_*.png``; None: one
            subfolder per class, with files at any depth.
        val_path, test_path: folders of the other splits.
        size: height and width to which images are resized; None: the common size of all files.
        channels: 1 for grey, 3 for colour; None: 1 if all training images are grey.
        memory_share: share of the free memory; 0 always reads from the files.
        workers: reader processes if the data do not fit into memory; None: all cores but one.
        split_seed: seed of the splits that are drawn.
        val_fraction, test_fraction: shares of the splits that are drawn.
        common: arguments of `DataModule`.
    """

    task = "classification"
    inputs = "image"
    supports_folds = True

    def __init__(
        self,
        path: Path,
        pattern: str | None = None,
        val_path: Path | None = None,
        test_path: Path | None = None,
        size: Sequence[int] | None = None,
        channels: int | None = None,
        memory_share: float = 0.5,
        workers: int | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.paths = split_paths(path, val_path, test_path)
        self.pattern = pattern
        self.size, self.channels = size, channels
        self.memory_share, self.workers = memory_share, workers
        self.split_seed = split_seed
        self.fractions = (val_fraction, test_fraction)
        self.classes: tuple[str, ...] = ()
        self.shape: tuple[int, ...] = ()
        self.scale: Standardizer | None = None

    def files(self) -> dict[str, list[Labelled]]:
        """Return path and class of each image of each split."""
        available = {
            name: labelled_files(folder, self.pattern, ENDINGS, "an image") for name, folder in self.paths.items()
        }
        return draw_missing_splits(available, *self.fractions, self.split_seed, itemgetter(1), self.fold)

    def load(self) -> dict[str, Batch]:
        parts = self.files()
        files = {name: tuple(str(path) for path, _ in part) for name, part in parts.items()}
        if not self.classes:
            self.classes = classes_of((label for _, label in parts["train"]), str(self.paths["train"]))
        labels = {
            name: class_numbers([label for _, label in part], self.classes, str(self.source_path(name)))
            for name, part in parts.items()
        }
        if not self.shape:
            self.shape = self._shared_shape(files)
        total = sum(map(len, files.values()))
        bytes_needed = 4 * total * prod(self.shape)
        if fits_in_memory(bytes_needed, self.memory_share, f"{next(iter(self.paths.values()))}: {total:,} images"):
            self.readers = {}
            return self._in_memory(files, labels)
        if self.scale is None:
            self.scale = self._sampled_scale(files["train"])
        self.readers = {name: _ImageReader(part, self.shape, self.scale) for name, part in files.items()}
        return {name: LabelledBatch(torch.arange(len(y)), y) for name, y in labels.items()}

    def _in_memory(self, files: dict[str, tuple[str, ...]], labels: dict[str, Tensor]) -> dict[str, Batch]:
        pixels = {name: read_images(part, self.shape) for name, part in files.items()}
        if self.scale is None:
            self.scale = pixel_scale(pixels["train"])
        return {name: LabelledBatch(standardize(pixels.pop(name), self.scale), y) for name, y in labels.items()}

    def _sampled_scale(self, files: Sequence[str]) -> Standardizer:
        count = min(SCALE_SAMPLES, len(files))
        sample = np.random.default_rng(self.split_seed).choice(len(files), count, replace=False)
        log.info("pixels are standardised with %s of %s training images", f"{count:,}", f"{len(files):,}")
        return pixel_scale(read_images([files[i] for i in sample], self.shape))

    def _shared_shape(self, files: dict[str, tuple[str, ...]]) -> tuple[int, ...]:
        """Return the configured or common shape [C, H, W] of the images.

        Raises:
            UserError: if files are not images, or if two have different sizes; names them.
        """
        names = [name for part in files.values() for name in part]
        shapes = map_parallel(size_and_channels, names)
        sizes = {size: name for name, (size, _) in zip(names, shapes, strict=True)}
        if self.size is None and len(sizes) > 1:
            (a, first), (b, second) = list(sizes.items())[:2]
            raise UserError(
                f"{first} is {a[0]}×{a[1]}, but {second} is {b[0]}×{b[1]} (height × width). "
                f"datamodule.size=[{a[0]},{a[1]}] resizes all images"
            )
        size = tuple(self.size) if self.size is not None else next(iter(sizes))
        grey = all(channels == 1 for _, channels in shapes[: len(files["train"])])
        return (self.channels or (1 if grey else 3), *size)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.task, self.inputs, self.shape, (len(self.classes),), class_names=self.classes)

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is an image file of any size, or a folder of them."""
        assert self.scale is not None
        pixels = read_images(self.listed(inputs), self.shape)
        return LabelledBatch(standardize(pixels, self.scale), torch.zeros(len(pixels), dtype=torch.int64))

    def listed(self, inputs: Sequence[str]) -> list[str]:
        return expand_folders(inputs, ENDINGS)

    def example_inputs(self, count: int = 3) -> list[str]:
        return [str(path) for path, _ in self.files()["test"][:count]]

    def state_dict(self) -> dict[str, Any]:
        if self.scale is None:
            return {}
        return {"classes": list(self.classes), "shape": list(self.shape), "scale": self.scale.to_plain()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.classes = texts(state_dict, "classes")
        self.shape = sizes(state_dict, "shape", 3)
        if self.shape[0] not in (1, 3):
            raise DamagedPreparation("'shape' has neither 1 nor 3 channels")
        self.scale = Standardizer.from_plain(part(state_dict, "scale"))


@dataclass(frozen=True)
class _ImageReader:
    """Reads images of a split by index."""

    files: tuple[str, ...]
    shape: tuple[int, ...]
    scale: Standardizer

    def __call__(self, index: Tensor, augment: bool = False) -> Tensor:
        check_memory(5 * len(index) * prod(self.shape), f"a batch of {len(index):,} images of {self.shape[1:]}")
        pixels = np.stack([read_image(self.files[i], self.shape) for i in index.tolist()])
        return standardize(pixels, self.scale)


def standardize(pixels: np.ndarray, scale: Standardizer) -> Tensor:
    """Standardise images [N, C, H, W] uint8 to float32."""
    mean, deviation = (torch.tensor(row).view(1, -1, 1, 1) for row in (scale.mean, scale.deviation))
    return torch.from_numpy(pixels).float().sub_(mean).div_(deviation)


def read_images(files: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """Return images [N, C, H, W] uint8.

    Raises:
        UserError: if images cannot be read; names them.
    """
    check_memory(5 * len(files) * prod(shape), f"{len(files):,} images of {shape[1]} × {shape[2]}")  # uint8 and float32
    pixels = np.empty((len(files), *shape), dtype=np.uint8)

    def read(index: int) -> None:
        pixels[index] = read_image(files[index], shape)

    map_parallel(read, range(len(files)))
    return pixels


def map_parallel(function: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
    """Apply a function to every item in threads on all cores; image decoding releases the GIL.

    Raises:
        UserError: with the first errors, and the number of the others.
    """

    def attempt(item: Any) -> Result | UserError:
        try:
            return function(item)
        except UserError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        results = list(pool.map(attempt, items))
    errors = [str(result) for result in results if isinstance(result, UserError)]
    if errors:
        more = [f"… and {len(errors) - MAX_LISTED} more"] if len(errors) > MAX_LISTED else []
        raise UserError("\n".join([*errors[:MAX_LISTED], *more]))
    return results  # type: ignore[return-value]
