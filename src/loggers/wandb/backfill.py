"""Backfill a run in Weights & Biases from its folder: rows that a killed process had not yet written to W&B's files, and
tables, plots and checkpoints that could not be logged while the server failed.
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

MAX_PLOT_BYTES = 64 * 2**20
"""Maximum size of a plot that is sent."""

_PNG = b"\x89PNG\r\n\x1a\n"


def backfill(folder: RunFolder, timeout: float, account: Account) -> bool:
    """Send what is in the folder of a run but not on the server, and return whether everything arrived.

    All rows from the first missing one are sent, because the rows of a run are in the order of its steps. Tables are sent
    again, because their rows may have arrived without their files.

    Args:
        folder: folder of the run. This process holds its lock, and its W&B files have been uploaded.
        timeout: seconds to wait for the end of the upload.
        account: where the run may be uploaded.

    Raises:
        Exception: any error of the client.
    """
    import wandb

    # The client gets a temporary folder, because it would follow links in the run folder.
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        logger = reopen(folder, timeout, account, Path(temporary))
        remote_run = wandb.Api(timeout=60).run(logger.experiment.path)
        rows = [row for row in folder.metrics() if row["step"] is not None]
        remote_rows = list(history_rows(remote_run.scan_history(use_cache=False)))
        for row in rows[_count_equal(rows, remote_rows) :]:
            values = {key: value for key, value in row.items() if key not in ("step", "time") and value is not None}
            logger.log_metrics(values | {"_timestamp": row["time"]}, step=row["step"])
        logger.log_predictions()
        for plot in sorted((folder.path / "plots").glob("*.png")):
            if (name := f"plots/{plot.stem}") not in remote_run.summary:
                contents = read_below(folder.path, Path("plots", plot.name), MAX_PLOT_BYTES)
                # The client uses Pillow, which starts Ghostscript for a PostScript file of any name.
                if not contents.startswith(_PNG):
                    log.warning("%s: this is not a PNG file, so it is left out", plot)
                    continue
                copy = Path(temporary, plot.name)
                copy.write_bytes(contents)
                logger.log_image(name, [str(copy)])
        logger.close(0 if folder.record["status"] == "finished" else 1)
    return bool(folder.record["wandb"]["complete"])


def _count_equal(rows: Sequence[Mapping[str, Any]], remote_rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of rows from the first one that are equal on the server."""
    equal = (_comparable(row) == _comparable(other) for row, other in zip(rows, remote_rows, strict=False))
    return next((count for count, is_equal in enumerate(equal) if not is_equal), min(len(rows), len(remote_rows)))


def _comparable(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of a row as texts, so that NaN is equal to itself, without the time, which the server may change."""
    return {key: repr(float(value)) for key, value in row.items() if key != "time" and value is not None}
