"""Read image files of common formats and any size, and convert them to the size and channels of a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from src.core.errors import UserError
from src.datamodules.io.limited_reader import LimitedReader
from src.datamodules.io.numeric_table import looks_like_file

_GREY = ("1", "L", "LA", "F")
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
"""Accepted formats, whatever the file extension: Pillow reads more, some of which run other programs."""
MAX_PIXELS = 2**26
"""Largest number of pixels of an image, and of all images that are decoded at the same time: 8192 × 8192."""
MAX_FILE_BYTES = 2**29
"""Largest size of an image file: 8192 × 8192 pixels of 64 bits. Pillow reads some formats as a whole."""
MAX_READS = 300_000
"""Largest number of reads of an image file: Pillow skips bytes before a GIF image one by one, and PNG chunks one by one."""
MAX_SCANNED = 2**31
"""Largest total number of pixels of the scans of a JPEG file; ten scans are usual in a progressive one."""
MAX_PLAIN_BYTES = 2**24
"""Largest PPM file of decimal numbers, which Pillow decodes in Python."""
MAX_PLAIN_COMMENTS = 1000
"""Largest number of comments in such a file: Pillow copies the file for each."""
STRIP_PIXELS = 1 << 20
"""Pixels that are converted at once."""
_MODES = {1: "L", 3: "RGB"}
_TRANSPOSED = range(5, 9)
"""EXIF orientations (tag 274) that exchange rows and columns."""


def is_image(text: str) -> bool:
    """Return whether an input is a path of a file that is not a table of numbers."""
    return looks_like_file(text) and not text.lower().endswith((".csv", ".txt"))


class _PixelBudget:
    """Limits the pixels that all threads of this process decode at the same time."""

    def __init__(self, pixels: int) -> None:
        self._free = self._total = pixels
        self._changed = Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Wait until the pixels are available, and reserve them within the context."""
        pixels = min(pixels, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_DECODING = _PixelBudget(MAX_PIXELS)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file without decoding its pixels.

    Raises:
        UserError: if the file is not a readable image, now or within the context, or has more than `MAX_PIXELS`.
    """
    try:
        with (
            LimitedReader(path, MAX_FILE_BYTES, MAX_READS) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:  # raised by Pillow too
        raise UserError(
            f"{path}: this image has more than {MAX_PIXELS:,} pixels, the largest allowed number"
        ) from error
    except Exception as error:  # decoders raise any exception for damaged files
        raise UserError(f"{path}: this is not a readable image") from error


@contextmanager
def decoded_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file and decode its pixels, which count towards the limit within the context.

    Raises:
        UserError: see `opened_image`; or if it would take too long to decode.
    """
    with opened_image(path) as image:
        pixels = image.width * image.height
        _check_decoding_time(image, path)
        with _DECODING.reserve(pixels):
            image.load()
            yield image


def _check_decoding_time(image: Image.Image, path: Path) -> None:
    """Raise `UserError` for a JPEG file of many scans, sequential ones included, or a long PPM file of decimal numbers."""
    file: Any = image.fp  # type: ignore[attr-defined]  # set by `Image.open`
    if image.format in ("JPEG", "MPO"):
        file.seek(0)  # the decoder seeks to its start itself
        scans = file.read().count(b"\xff\xda")
        if scans * image.width * image.height > MAX_SCANNED:
            raise UserError(f"{path}: this JPEG has {scans:,} scans, which would take too long to decode")
    elif image.tile and image.tile[0].codec_name == "ppm_plain":  # type: ignore[attr-defined]
        file.seek(0)
        if (
            len(contents := file.read(MAX_PLAIN_BYTES + 1)) > MAX_PLAIN_BYTES
            or contents.count(b"#") > MAX_PLAIN_COMMENTS
        ):
            raise UserError(f"{path}: this PPM file of decimal numbers would take too long to decode; save it as PNG")


def open_image(path: str, finish: Callable[[Image.Image], Image.Image] = Image.Image.copy) -> Image.Image:
    """Return an 8-bit image, rotated by its EXIF orientation, with transparency replaced by white.

    Args:
        path: the file.
        finish: converts the image to the result, for example resizes it.

    Raises:
        UserError: if there is no such file, if it is not a readable image (see `decoded_image`), or if it has 32-bit
            pixels, whose white level is undefined.
    """
    if not looks_like_file(path):
        raise UserError(f"'{path[:60]}': there is no such image file")
    with decoded_image(Path(path)) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # 16 bits
            return finish(_to_8_bits(image))
        if image.mode not in ("I", "F"):
            return finish(_on_white(image) if image.has_transparency_data else image)
    raise UserError(f"{path}: 32-bit pixels have no defined white level; save the image with 8 or 16 bits per channel")


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes in which an image is converted part by part, because a copy of all of it may fill the memory."""
    rows = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert a 16-bit image to 8 bits; Pillow would clip the values at 255."""
    result = Image.new("L", image.size)
    for box in _strips(image):
        values = np.asarray(image.crop(box), dtype=np.float64) / 257
        result.paste(Image.fromarray(values.round().clip(0, 255).astype(np.uint8)), box)
    return result


def _on_white(image: Image.Image) -> Image.Image:
    result = Image.new("RGB", image.size)
    for box in _strips(image):
        strip = image.crop(box).convert("RGBA")
        result.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), box)
    return result


def size_and_channels(path: str) -> tuple[tuple[int, int], int]:
    """Return (height, width) and the number of channels (1 for grey, 3 for colour) from the header of a file.

    Raises:
        UserError: if the file is not an image, or has more than `MAX_PIXELS`.
    """
    with opened_image(Path(path)) as image:
        size = (image.width, image.height) if image.getexif().get(274) in _TRANSPOSED else (image.height, image.width)
        return size, 1 if image.mode in _GREY or image.mode.startswith("I") else 3


def read_image(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image as bytes [C, H, W].

    Args:
        path: the file.
        shape: [C, H, W]; 1 channel is grey, 3 are red, green and blue.
    """
    channels, height, width = shape

    def convert(image: Image.Image) -> Image.Image:
        image = image if image.mode == _MODES[channels] else image.convert(_MODES[channels])
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)

    image = open_image(path, convert)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
