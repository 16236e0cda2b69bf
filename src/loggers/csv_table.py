"""Lightning logger that writes a table for spreadsheets into the run folder."""

import csv
import time
from io import StringIO
from pathlib import PurePath
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.core.escape import csv_cell
from src.core.files import make_folder_below, write_below
from src.run_store.metrics_file import read_metrics
from src.run_store.run_folder import RunFolder

_INTERVAL = 10.0
"""Minimum time in seconds between two writes of the table during training."""
_SHARE = 0.05
"""Maximum share of the time that is spent on writing it."""


class CSVTable(Logger):
    """Writes the entries of metrics.jsonl as metrics.csv, as ``lightning.pytorch.loggers.CSVLogger`` does in any other folder.

    No link in the run folder is followed, whereas Lightning opens the file by its path.

    Args:
        folder: the run's folder.
        name: folder of the table, relative to the run folder; None: the run folder.
        version: a folder below it; a number n is ``version_n``, and None is no folder.
        prefix: prefix of the metrics' names.
        flush_logs_every_n_steps: has no effect; the table is written in intervals.

    Raises:
        UserError: if the folder leaves the run folder, or is a link.
    """

    def __init__(
        self,
        folder: RunFolder,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__()
        self._folder = folder.path
        self._name = name or ""
        self._version = f"version_{version}" if isinstance(version, int) else version or ""
        self._prefix = f"{prefix}-" if prefix else ""
        self._place = PurePath(self._name, self._version)
        make_folder_below(self._folder, self._place)
        self._next_write = time.monotonic() + _INTERVAL

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Do nothing: metrics.jsonl has them."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has them."""

    @rank_zero_only
    def save(self) -> None:
        if time.monotonic() >= self._next_write:
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write()

    def _write(self) -> None:
        started = time.monotonic()
        rows = read_metrics(self._folder)
        names = sorted({name for row in rows for name in row} - {"epoch", "step", "time", "resumed"})
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", "step", *(csv_cell(self._prefix + name) for name in names)])
        writer.writerows([row.get(name) for name in ("epoch", "step", *names)] for row in rows)
        write_below(self._folder, self._place / "metrics.csv", text.getvalue(), make=True)
        ended = time.monotonic()
        self._next_write = ended + max(_INTERVAL, (ended - started) / _SHARE)
