"""Lightning logger that writes metrics.jsonl of the run folder."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.core.files import append_below, open_below
from src.run_store.config_file import to_plain
from src.run_store.run_folder import RunFolder

METRICS = "metrics.jsonl"


class RunLogger(Logger):
    """Append every log to metrics.jsonl: {"step", "epoch", metrics…, "time"}.

    A number that is not finite is written as null, which every JSON reader accepts, and `read_metrics` returns NaN for it.
    ``time`` is in seconds since 1970. The first line after a resume has ``"resumed": true``.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self._folder = folder.path
        self._resumed = bool(folder.record.get("resumed"))
        self._file: BinaryIO | None = None

    @property
    def name(self) -> str:
        return "run"

    @property
    def version(self) -> str:
        return self._folder.name

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        values = dict(metrics)
        epoch = values.pop("epoch", None)
        entry = {"step": step, "epoch": None if epoch is None else int(epoch), **to_plain(values)}
        if self._resumed and step is not None:
            entry["resumed"] = True
            self._resumed = False
        entry["time"] = round(time.time(), 3)
        file = self._open()
        file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        file.flush()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has them."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        if self._file is None:
            incomplete = _last_line_is_incomplete(self._folder)
            self._file = append_below(self._folder, METRICS)
            if incomplete:
                self._file.write(b"\n")
        return self._file


def _last_line_is_incomplete(folder: Path) -> bool:
    """Return whether the last line has no line feed, because the process that wrote it was killed."""
    try:
        with open_below(folder, METRICS) as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except FileNotFoundError:
        return False
