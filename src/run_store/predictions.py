"""Read and write the predictions of a run on the test split."""

import logging
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.files import open_below
from src.core.records import read_json
from src.run_store.schema import predictions

ANSWERS, EXAMPLES = "answers.json", "examples.png"
MAX_PIXELS = 2**24
"""Pixels of examples.png that are read."""


def read_predictions(path: Path) -> dict[str, Any]:
    """Return the predictions of a run on its test split, with values of the right types only.

    Args:
        path: the run folder.

    Raises:
        OSError: if there are none.
        UserError: if the file is damaged, or of another format version.
    """
    return predictions(read_json(path, ANSWERS), path / ANSWERS)


log = logging.getLogger(__name__)


def read_answers(folder: Path) -> dict[str, Any] | None:
    """Return what a run kept of its answers; None if nothing, or if it is damaged, which is logged."""
    try:
        return read_predictions(folder)
    except FileNotFoundError:
        return None
    except (OSError, UserError) as error:
        log.warning("left out: %s", error)
        return None


def read_pictures(folder: Path, count: int) -> list[Any]:
    """Return the inputs of the examples of a run, [H, W] or [H, W, 3] bytes; none where they are no images.

    Args:
        folder: of the run.
        count: of its examples.
    """
    import numpy as np  # loaded on demand: comparisons do without
    from PIL import Image

    try:
        with open_below(folder, EXAMPLES) as file, Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{image.width:,} × {image.height:,} pixels; examples have at most {MAX_PIXELS:,}")
            pixels = np.asarray(image)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, SyntaxError, UserError, Image.DecompressionBombError) as error:
        log.warning("left out: %s: %s", folder / EXAMPLES, error)
        return []
    return np.split(pixels, count, axis=1) if count and pixels.ndim in (2, 3) and not pixels.shape[1] % count else []
