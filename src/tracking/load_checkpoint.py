"""Reading a checkpoint as data: nothing in it is executed."""

from pathlib import Path
from typing import Any

from src.errors import UserError
from src.tracking.checkpoints import AtomicCheckpointIO


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of Gridlight.

    Args:
        path: the file.

    Raises:
        UserError: if it is missing, torn, holds more than data, or was not written by Gridlight.
    """
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    if "gridlight" not in checkpoint:
        raise UserError(f"{path}: this checkpoint was not written by Gridlight")
    return checkpoint
