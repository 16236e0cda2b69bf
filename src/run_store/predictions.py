"""Read and write the predictions of a run on the test split."""

import logging
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.files import open_below
from src.core.records import read_json
from src.run_store.schema import validate_predictions

PREDICTIONS, EXAMPLES = "predictions.json", "examples.png"
MAX_PIXELS = 2**24
"""Maximum number of pixels of examples.png."""

log = logging.getLogger(__name__)


def load_predictions(folder: Path) -> dict[str, Any] | None:
    """Return the predictions of a run on its test split; None if there are none, or, with a warning, if they are damaged."""
    try:
        return validate_predictions(read_json(folder, PREDICTIONS), folder / PREDICTIONS)
    except FileNotFoundError:
        return None
    except (OSError, UserError) as error:
        log.warning("left out: %s", error)
        return None


def read_example_images(folder: Path, count: int) -> list[Any]:
    """Return the input images of the examples of a run, each [H, W] or [H, W, 3] bytes; an empty list if there are none.

    Args:
        folder: folder of the run.
        count: number of examples.
    """
    import numpy as np  # lazy: comparisons do not need it
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
