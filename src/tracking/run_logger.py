"""RunLogger: the metrics of a run, one line a log, in its run folder; and the loggers that a config puts beside it."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.config.locate import locate
from src.core.files import append_below, open_below
from src.errors import UserError
from src.tracking.run_folder import RunFolder, plain
from src.tracking.weights_and_biases import WeightsAndBiases, start

METRICS = "metrics.jsonl"


class RunLogger(Logger):
    """Appends every log to metrics.jsonl: {"step", "epoch", metrics…, "time"}.

    A number that is not finite is written as null, which every JSON reader takes; the key says that it was measured,
    and `read_metrics` gives NaN. ``time`` is in seconds since 1970. The first line after a resume says so.

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
        entry = {"step": step, "epoch": None if epoch is None else int(epoch), **plain(values)}
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
            torn = _is_torn(self._folder)
            self._file = append_below(self._folder, METRICS)
            if torn:
                self._file.write(b"\n")
        return self._file


def _is_torn(folder: Path) -> bool:
    """Return whether the last line lacks its end, because the process that wrote it was killed."""
    try:
        with open_below(folder, METRICS) as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except FileNotFoundError:
        return False


def build_loggers(
    config: Mapping[str, Any], folder: RunFolder, run_config: Mapping[str, Any], beside: bool = False
) -> list[Logger]:
    """Return the run's own logger and those that the config asks for.

    Args:
        config: the section ``logger``: a dictionary a logger, null where one was removed. ``wandb`` is Weights &
            Biases; any other names a class by ``_target_`` and its arguments, with ``save_dir`` left to the run folder.
        folder: the run's folder.
        run_config: the resolved config of the whole run, for the loggers that show it.
        beside: other runs of this process are open, and stay so.

    Raises:
        UserError: if a logger cannot be made.
    """
    loggers: list[Logger] = [RunLogger(folder)]
    for key, settings in config.items():
        if settings is None:
            continue
        if "_target_" in settings:
            loggers.append(_build(f"logger.{key}", settings, folder))
        elif key == "wandb":
            if (logger := start(settings, folder, run_config, beside)) is not None:
                loggers.append(logger)
        else:
            raise UserError(f"logger.{key} needs a class: logger.{key}._target_=lightning.pytorch.loggers.CSVLogger")
    return loggers


def _build(key: str, settings: Mapping[str, Any], folder: RunFolder) -> Logger:
    cls: type[Logger] = locate(settings["_target_"], Logger, f"{key}._target_")  # type: ignore[type-abstract]
    arguments = {name: value for name, value in settings.items() if name != "_target_"}
    try:
        return cls(**{"save_dir": str(folder.path), **arguments})
    except (TypeError, ModuleNotFoundError) as error:
        raise UserError(f"{key}: {cls.__name__} cannot be made: {error}") from error


def close_loggers(loggers: list[Logger], exit_code: int) -> None:
    """Close every logger at the very end of a run, after its record was written.

    Args:
        loggers: what `build_loggers` returned.
        exit_code: 0 if the run finished, 1 if it failed or was stopped.
    """
    for logger in loggers:
        if isinstance(logger, WeightsAndBiases):
            logger.close(exit_code)
        else:
            logger.finalize("success" if exit_code == 0 else "failed")


def sync_hint(loggers: list[Logger]) -> str | None:
    """Return the command that uploads what Weights & Biases kept on disk; None where there is nothing to upload."""
    hints = [logger.sync_hint() for logger in loggers if isinstance(logger, WeightsAndBiases)]
    return next((hint for hint in hints if hint), None)
