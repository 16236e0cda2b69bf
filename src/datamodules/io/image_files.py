"""Reading image files: any usual format, any size, brought to the size and channels that a model knows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

import numpy as np
from PIL import Image, ImageOps

from src.core.errors import UserError
from src.core.files import open_data_file, read_data_file
from src.datamodules.io.numeric_table import looks_like_file

_GREY = ("1", "L", "LA", "F")
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
"""The formats that are read, whatever a file is called: Pillow knows more, some of which run other programs."""
MAX_PIXELS = 2**26
"""The most pixels of an image that is decoded, and of all that are decoded at the same time: 8192 × 8192."""
MAX_SCANNED = 2**31
"""The most pixels that the scans of a progressive JPEG file go over; ten scans are usual."""
MAX_JPEG_BYTES = 2**29
"""The largest progressive JPEG file."""
STRIP = 1 << 20
"""Pixels that are converted at once."""
_MODES = {1: "L", 3: "RGB"}
_TURNED = range(5, 9)
"""Orientations of a photograph (EXIF 274) whose rows are columns of the picture."""


def is_image(text: str) -> bool:
    """Tell whether an input names a file that is not a table of numbers."""
    return looks_like_file(text) and not text.lower().endswith((".csv", ".txt"))


class _Budget:
    """A number of pixels that all threads of this process together decode at a time."""

    def __init__(self, pixels: int) -> None:
        self._free = self._all = pixels
        self._changed = Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until an image can be decoded, and count its pixels meanwhile."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_DECODING = _Budget(MAX_PIXELS)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file without decoding its pixels.

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


@contextmanager
def decoded_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file and decode its pixels, which count as decoded within the context.

    Raises:
        UserError: see `opened_image`; or if it is a progressive JPEG file that would take too long.
    """
    with opened_image(path) as image:
        pixels = image.width * image.height
        if image.format == "JPEG" and image.info.get("progressive"):
            scans = read_data_file(path, MAX_JPEG_BYTES).count(b"\xff\xda")
            if scans * pixels > MAX_SCANNED:
                raise UserError(f"{path}: this image can be read, but its {scans:,} scans would take very long")
        with _DECODING.taken(pixels):
            image.load()
            yield image


def open_image(path: str, finish: Callable[[Image.Image], Image.Image] = Image.Image.copy) -> Image.Image:
    """Return an image of bytes, upright as its camera says, on white where it is transparent.

    Args:
        path: the file.
        finish: makes the result of the image, such as a smaller one.

    Raises:
        UserError: if there is no such file, if it is no image that can be read (see `decoded_image`), or if it holds
            numbers of which nobody knows what is white.
    """
    if not looks_like_file(path):
        raise UserError(f"'{path[:60]}': there is no such image file")
    with decoded_image(Path(path)) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # 16 bits
            return finish(_in_bytes(image))
        if image.mode not in ("I", "F"):
            return finish(_on_white(image) if image.has_transparency_data else image)
    raise UserError(f"{path}: pixels of 32 bits have no agreed white; save it with 8 or 16 bits a channel")


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes of an image in which it is converted, as a copy of all of it may fill the memory."""
    rows = max(STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _in_bytes(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits as one of 8, where Pillow would cut the values off at 255."""
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

    def fitted(image: Image.Image) -> Image.Image:
        image = image if image.mode == _MODES[channels] else image.convert(_MODES[channels])
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)

    image = open_image(path, fitted)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
