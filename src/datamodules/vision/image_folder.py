"""A folder of images of the user: one subfolder per class, or the class in the file names."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import get_worker_info

from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import check_memory, usable_cores
from src.datamodules.io.image_files import read_image, size_and_channels
from src.datamodules.labelled_files import LabelledFiles
from src.datamodules.preparation import DamagedPreparation, sizes
from src.datamodules.standardizer import Standardizer
from src.datamodules.vision.pixels import fit_pixel_scale, standardize_pixels

MAX_LISTED = 5
"""Unreadable images that an error lists; further ones are counted."""

Result = TypeVar("Result")


class ImageFolder(LabelledFiles):
    """Images of a folder. Pixels are standardised with mean and deviation per channel of the training split.

    Args:
        path: the data folder.
        size: height and width to which images are resized; None: the common size of all files.
        channels: 1 for grey, 3 for colour; None: 1 if all training images are grey.
        common: other arguments of `LabelledFiles`.
    """

    endings = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
    kind = "an image"

    def __init__(
        self, path: Path, size: Sequence[int] | None = None, channels: int | None = None, **common: Any
    ) -> None:
        super().__init__(path, **common)
        self.size, self.channels = size, channels
        self.shape: tuple[int, ...] = ()

    def fit_shape(self, files: dict[str, list[Path]]) -> int:
        """Use the configured or common size of the images.

        Raises:
            UserError: if files are not images, or if two have different sizes; names them.
        """
        if not self.shape:
            names = [str(path) for paths in files.values() for path in paths]
            sizes_and_channels = map_parallel(size_and_channels, names)
            sizes = {size: name for name, (size, _) in zip(names, sizes_and_channels, strict=True)}
            if self.size is None and len(sizes) > 1:
                (a, first), (b, second) = list(sizes.items())[:2]
                raise UserError(
                    f"{first} is {a[0]}×{a[1]}, but {second} is {b[0]}×{b[1]} (height × width). "
                    f"datamodule.size=[{a[0]},{a[1]}] resizes all images"
                )
            size = self.size or next(iter(sizes))
            is_grey = all(channels == 1 for _, channels in sizes_and_channels[: len(files["train"])])
            self.shape = (self.channels or (1 if is_grey else 3), *size)
        return 4 * prod(self.shape)

    def read(self, files: Sequence[Path]) -> np.ndarray:
        return read_images(files, self.shape)

    def fit_scale(self, examples: np.ndarray) -> Standardizer:
        return fit_pixel_scale(examples)

    def to_inputs(self, examples: np.ndarray) -> Tensor:
        assert self.scale is not None
        return standardize_pixels(examples, self.scale)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.task, self.inputs, self.shape, (len(self.classes),), class_names=self.classes)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state | {"shape": list(self.shape)} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.shape = sizes(state_dict, "shape", 3)
        if self.shape[0] not in (1, 3):
            raise DamagedPreparation("'shape' has neither 1 nor 3 channels")


def read_images(files: Sequence[Path], shape: tuple[int, ...]) -> np.ndarray:
    """Return images [N, C, H, W] uint8.

    Raises:
        UserError: if images cannot be read; names them.
    """
    check_memory(5 * len(files) * prod(shape), f"{len(files):,} images of {shape[1]} × {shape[2]}")  # uint8 and float32
    pixels = np.empty((len(files), *shape), dtype=np.uint8)

    def read(index: int) -> None:
        pixels[index] = read_image(str(files[index]), shape)

    map_parallel(read, range(len(files)))
    return pixels


def map_parallel(function: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
    """Apply a function to every item in threads on all cores, since image decoding releases the GIL; in a reader process, of
    which there are several, in one thread.

    Raises:
        UserError: with the first errors, and the number of the others.
    """

    def attempt(item: Any) -> Result | UserError:
        try:
            return function(item)
        except UserError as error:
            return error

    with ThreadPoolExecutor(1 if get_worker_info() else usable_cores()) as pool:
        results = list(pool.map(attempt, items))
    errors = [str(result) for result in results if isinstance(result, UserError)]
    if errors:
        more = [f"… and {len(errors) - MAX_LISTED} more"] if len(errors) > MAX_LISTED else []
        raise UserError("\n".join([*errors[:MAX_LISTED], *more]))
    return results  # type: ignore[return-value]
