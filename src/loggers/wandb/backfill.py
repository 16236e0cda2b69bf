"""A run in Weights & Biases made whole from its folder: the rows that a killed process had not written into W&B's files
yet, and the tables, pictures and checkpoints that could not be logged while the server was in trouble.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from src.core.files import read_below
from src.core.wandb_account import Account
from src.loggers.wandb.reader import history_rows
from src.loggers.wandb.session import reopen
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)

MAX_PICTURE_BYTES = 64 * 2**20
"""The largest picture of a run that is sent."""

_PNG = b"\x89PNG\r\n\x1a\n"


def complete(folder: RunFolder, patience: float, account: Account) -> bool:
    """Send what the folder of a run has and the server has not, and tell whether all of it arrived.

    From the first row on that is missing, all are sent: the rows of a run are in the order of its steps. Tables are sent
    again, as their rows may have arrived without their files.

    Args:
        folder: whose lock this process holds, and whose W&B files have been uploaded.
        patience: seconds to wait for the end of the upload.
        account: where the run may be.

    Raises:
        Exception: whatever the client raises.
    """
    import wandb

    with TemporaryDirectory(
        ignore_cleanup_errors=True
    ) as place:  # not the run folder, whose links the client would follow
        logger = reopen(folder, patience, account, Path(place))
        there = wandb.Api(timeout=60).run(logger.experiment.path)
        rows = [row for row in folder.metrics() if row["step"] is not None]
        for row in rows[_arrived(rows, list(history_rows(there.scan_history(use_cache=False)))) :]:
            values = {key: value for key, value in row.items() if key not in ("step", "time") and value is not None}
            logger.log_metrics(values | {"_timestamp": row["time"]}, step=row["step"])
        logger.log_answers()
        for picture in sorted((folder.path / "plots").glob("*.png")):
            if (name := f"plots/{picture.stem}") not in there.summary:
                contents = read_below(folder.path, Path("plots", picture.name), MAX_PICTURE_BYTES)
                if not contents.startswith(
                    _PNG
                ):  # Pillow, in the client, starts Ghostscript for PostScript of any name
                    log.warning("%s: this is not a PNG picture, so it is left out", picture)
                    continue
                copy = Path(place, picture.name)
                copy.write_bytes(contents)
                logger.log_image(name, [str(copy)])
        logger.log_checkpoints()
        logger.close(0 if folder.record["status"] == "finished" else 1)
    return bool(folder.record["wandb"]["complete"])


def _arrived(rows: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> int:
    """Return how many rows of a run, from its beginning, are on the server as they are here."""
    same = (_numbers(row) == _numbers(other) for row, other in zip(rows, there, strict=False))
    return next((count for count, equal in enumerate(same) if not equal), min(len(rows), len(there)))


def _numbers(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what can be compared of a row: NaN equals nothing, and its time there may be that of sending."""
    return {key: repr(float(value)) for key, value in row.items() if key != "time" and value is not None}
