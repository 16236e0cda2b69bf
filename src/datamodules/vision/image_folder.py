"""A folder of images of the user's: a folder a class, or the class in their names."""

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
from src.core.resources import fits, refuse_too_much, usable_cores
from src.datamodules.base import DataModule
from src.datamodules.class_labels import class_numbers, classes_of
from src.datamodules.io.image_files import read_image, size_and_channels
from src.datamodules.io.labelled_folder import Labelled, labelled_files, listed
from src.datamodules.preparation import DamagedPreparation, part, sizes, texts
from src.datamodules.splits.holdout import completed, split_paths
from src.datamodules.standardizer import Standardizer
from src.datamodules.vision.public_image_sets import pixel_scale

log = logging.getLogger(__name__)

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SAMPLED = 2000
"""Training images whose pixels are standardised by, where all of them are more than memory holds."""
NAMED = 5
"""Unreadable images that an error lists; further ones are counted."""

Found = TypeVar("Found")


class ImageFolder(DataModule):
    """Images with a class each. Validation and test are folders of their own, or else drawn, each class in proportion.

    Pixels are standardised by mean and deviation of each channel, over the training split. Images that together take
    more than `memory_share` of the free memory are read batch by batch.

    Args:
        path: the folder; with `val_path` and `test_path` it is all training data.
        pattern: where the class stands in a file's path below the folder, such as ``{label}_*.png``; None: a folder a
            class, with files at any depth.
        val_path, test_path: folders of the other splits.
        size: height and width that every image is brought to; None takes what all files share.
        channels: 1, grey, or 3, colours; None takes 1 if all training images are grey.
        memory_share: of the free memory; 0 reads from the files always.
        workers: processes that read where memory is too small; None: all cores but one.
        split_seed: draws the splits that are not given.
        val_fraction, test_fraction: their shares.
        common: arguments of `DataModule`.
    """

    task = "classification"
    inputs = "image"

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
        """Return path and class of every image of each split."""
        given = {name: labelled_files(folder, self.pattern, ENDINGS, "picture") for name, folder in self.paths.items()}
        return completed(given, *self.fractions, self.split_seed, itemgetter(1), self.fold)

    def load(self) -> dict[str, Batch]:
        parts = self.files()
        files = {name: tuple(str(path) for path, _ in part) for name, part in parts.items()}
        if not self.classes:
            self.classes = classes_of((label for _, label in parts["train"]), str(self.paths["train"]))
        labels = {
            name: class_numbers([label for _, label in part], self.classes, str(self.place_of(name)))
            for name, part in parts.items()
        }
        if not self.shape:
            self.shape = self._shared_shape(files)
        total = sum(map(len, files.values()))
        bytes_needed = 4 * total * prod(self.shape)
        if fits(bytes_needed, self.memory_share, f"{next(iter(self.paths.values()))}: {total:,} images"):
            self.readers = {}
            return self._in_memory(files, labels)
        if self.scale is None:
            self.scale = self._sampled_scale(files["train"])
        self.readers = {name: _Images(part, self.shape, self.scale) for name, part in files.items()}
        return {name: LabelledBatch(torch.arange(len(y)), y) for name, y in labels.items()}

    def _in_memory(self, files: dict[str, tuple[str, ...]], labels: dict[str, Tensor]) -> dict[str, Batch]:
        pixels = {name: read_all(part, self.shape) for name, part in files.items()}
        if self.scale is None:
            self.scale = pixel_scale(pixels["train"])
        return {name: LabelledBatch(standardized(pixels.pop(name), self.scale), y) for name, y in labels.items()}

    def _sampled_scale(self, files: Sequence[str]) -> Standardizer:
        count = min(SAMPLED, len(files))
        chosen = np.random.default_rng(self.split_seed).choice(len(files), count, replace=False)
        log.info("pixels are standardised by %s of %s training images", f"{count:,}", f"{len(files):,}")
        return pixel_scale(read_all([files[i] for i in chosen], self.shape))

    def _shared_shape(self, files: dict[str, tuple[str, ...]]) -> tuple[int, ...]:
        """Return [C, H, W], found in the files or asked for.

        Raises:
            UserError: naming the files that are no images, or two of different sizes.
        """
        names = [name for part in files.values() for name in part]
        seen = each(size_and_channels, names)
        sizes = {size: name for name, (size, _) in zip(names, seen, strict=True)}
        if self.size is None and len(sizes) > 1:
            (one, first), (other, second) = list(sizes.items())[:2]
            raise UserError(
                f"{first} is {one[0]}×{one[1]}, and {second} {other[0]}×{other[1]} (height × width): "
                f"datamodule.size=[{one[0]},{one[1]}] brings every image to one size"
            )
        size = tuple(self.size) if self.size is not None else next(iter(sizes))
        grey = all(channels == 1 for _, channels in seen[: len(files["train"])])
        return (self.channels or (1 if grey else 3), *size)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.task, self.inputs, self.shape, (len(self.classes),), class_names=self.classes)

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is an image file of any size, or a folder of them."""
        assert self.scale is not None
        pixels = read_all(self.listed(inputs), self.shape)
        return LabelledBatch(standardized(pixels, self.scale), torch.zeros(len(pixels), dtype=torch.int64))

    def listed(self, inputs: Sequence[str]) -> list[str]:
        return listed(inputs, ENDINGS)

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
class _Images:
    """Reads the images of a split by their numbers."""

    files: tuple[str, ...]
    shape: tuple[int, ...]
    scale: Standardizer

    def __call__(self, index: Tensor, augment: bool = False) -> Tensor:
        refuse_too_much(5 * len(index) * prod(self.shape), f"a batch of {len(index):,} images of {self.shape[1:]}")
        pixels = np.stack([read_image(self.files[i], self.shape) for i in index.tolist()])
        return standardized(pixels, self.scale)


def standardized(pixels: np.ndarray, scale: Standardizer) -> Tensor:
    """Map bytes [N, C, H, W] to standardised float32."""
    mean, deviation = (torch.tensor(row).view(1, -1, 1, 1) for row in (scale.mean, scale.deviation))
    return torch.from_numpy(pixels).float().sub_(mean).div_(deviation)


def read_all(files: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """Return images [N, C, H, W] as bytes.

    Raises:
        UserError: naming those that cannot be read.
    """
    refuse_too_much(5 * len(files) * prod(shape), f"{len(files):,} images of {shape[1]} × {shape[2]}")  # and as floats
    pixels = np.empty((len(files), *shape), dtype=np.uint8)

    def read(number: int) -> None:
        pixels[number] = read_image(files[number], shape)

    each(read, range(len(files)))
    return pixels


def each(do: Callable[[Any], Found], things: Sequence[Any]) -> list[Found]:
    """Do something with every image, on all cores, as decoding leaves Python's lock alone.

    Raises:
        UserError: with what was wrong with the first few of them, and how many there were.
    """

    def attempt(thing: Any) -> Found | UserError:
        try:
            return do(thing)
        except UserError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(attempt, things))
    errors = [str(result) for result in found if isinstance(result, UserError)]
    if errors:
        more = [f"… and {len(errors) - NAMED} more"] if len(errors) > NAMED else []
        raise UserError("\n".join([*errors[:NAMED], *more]))
    return found  # type: ignore[return-value]
