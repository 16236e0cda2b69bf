"""Reading image files: any usual format, any size, brought to the size and channels that a model knows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from src.core.errors import UserError
from src.core.files import open_data_file
from src.datamodules.io.numeric_table import looks_like_file

_GREY = ("1", "L", "LA", "F")
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
"""The formats that are read, whatever a file is called: Pillow knows more, some of which run other programs."""
MAX_PIXELS = 2**26
"""The most pixels of an image that is decoded: 8192 × 8192."""
_MODES = {1: "L", 3: "RGB"}
_TURNED = range(5, 9)
"""Orientations of a photograph (EXIF 274) whose rows are columns of the picture."""


def is_image(text: str) -> bool:
    """Tell whether an input names a file that is not a table of numbers."""
    return looks_like_file(text) and not text.lower().endswith((".csv", ".txt"))


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file, whose pixels are decoded when they are asked for.

    Raises:
        UserError: if it is no image that can be read, now or within the context, or has more than `MAX_PIXELS`.
    """
    try:
        with open_data_file(path) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:  # which Pillow raises too
        raise UserError(f"{path}: this image has more than {MAX_PIXELS:,} pixels, the most that are decoded") from error
    except Exception as error:  # decoders raise any of damaged files
        raise UserError(f"{path}: this is no image that can be read") from error


def open_image(path: str) -> Image.Image:
    """Return an image of bytes, upright as its camera says, on white where it is transparent.

    Raises:
        UserError: if there is no such file, if it is no image that can be read, or if it holds numbers of which nobody
            knows what is white.
    """
    if not looks_like_file(path):
        raise UserError(f"'{path[:60]}': there is no such image file")
    with opened_image(Path(path)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # 16 bits
            values = np.asarray(upright, dtype=np.float64) / 257  # Pillow would cut them off at 255
            return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
        if image.mode not in ("I", "F"):
            return _on_white(upright) if upright.has_transparency_data else upright
    raise UserError(f"{path}: pixels of 32 bits have no agreed white; save it with 8 or 16 bits a channel")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def size_and_channels(path: str) -> tuple[tuple[int, int], int]:
    """Return height, width, and 1 channel for grey or 3 for colours, from a file's header.

    Raises:
        UserError: if it is no image, or has more than `MAX_PIXELS`.
    """
    with opened_image(Path(path)) as image:
        size = (image.width, image.height) if image.getexif().get(274) in _TURNED else (image.height, image.width)
        return size, 1 if image.mode in _GREY or image.mode.startswith("I") else 3


def read_image(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image as bytes [C, H, W].

    Args:
        path: the file.
        shape: [C, H, W]; 1 channel is grey, 3 are red, green and blue.
    """
    channels, height, width = shape
    image = open_image(path).convert(_MODES[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
