"""Reading image files: any format of Pillow, any size, brought to the size and channels that a model knows."""

import struct

import numpy as np
from PIL import Image

from src.datamodules.rows import looks_like_file
from src.errors import UserError

_GREY = ("1", "L", "LA", "F")
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def is_image(text: str) -> bool:
    """Tell whether an input names a file that is not a table of numbers."""
    return looks_like_file(text) and not text.lower().endswith((".csv", ".txt"))


def open_image(path: str) -> Image.Image:
    """Return an image, loaded.

    Raises:
        UserError: if there is no such file, or if it is no image that can be read.
    """
    if not looks_like_file(path):
        raise UserError(f"'{path[:60]}': there is no such image file")
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except _UNREADABLE as error:
        raise UserError(f"{path}: this is no image that can be read") from error


def size_and_channels(path: str) -> tuple[tuple[int, int], int]:
    """Return height, width, and 1 channel for grey or 3 for colours, from a file's header.

    Raises:
        UserError: if it is no image.
    """
    try:
        with Image.open(path) as image:
            return (image.height, image.width), 1 if image.mode in _GREY or image.mode.startswith("I") else 3
    except _UNREADABLE as error:
        raise UserError(f"{path}: this is no image that can be read") from error


def read_image(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image as bytes [C, H, W].

    Args:
        path: the file.
        shape: [C, H, W]; 1 channel is grey, 3 are red, green and blue.
    """
    channels, height, width = shape
    image = open_image(path)
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would cut them off at 255
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    image = image.convert(_MODES[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
