"""Build and close the loggers of a run."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from src.config.locate import locate
from src.core.errors import UserError
from src.loggers.csv_table import CSVTable
from src.loggers.jsonl import RunLogger
from src.loggers.wandb.logger import WeightsAndBiases
from src.loggers.wandb.start import start
from src.run_store.run_folder import RunFolder


def build_loggers(
    config: Mapping[str, Any], folder: RunFolder, run_config: Mapping[str, Any], concurrent: bool = False
) -> list[Logger]:
    """Return the logger of metrics.jsonl and those of the config.

    Args:
        config: the section ``logger``: a dictionary per logger, or null if it was removed. ``wandb`` is Weights & Biases;
            any other entry has the ``_target_`` of a class and its arguments; ``save_dir`` is the run folder by default.
        folder: the run's folder.
        run_config: the resolved config of the whole run, for loggers that show it.
        concurrent: keep other W&B runs of this process open.

    Raises:
        UserError: if a logger cannot be built.
    """
    loggers: list[Logger] = [RunLogger(folder)]
    for key, settings in config.items():
        if settings is None:
            continue
        if "_target_" in settings:
            loggers.append(_build(f"logger.{key}", settings, folder))
        elif key == "wandb":
            if (logger := start(settings, folder, run_config, concurrent)) is not None:
                loggers.append(logger)
        else:
            raise UserError(
                f"logger.{key} needs a class, such as logger.{key}._target_=lightning.pytorch.loggers.CSVLogger"
            )
    return loggers


def _build(key: str, settings: Mapping[str, Any], folder: RunFolder) -> Logger:
    cls: type[Logger] = locate(settings["_target_"], Logger, f"{key}._target_")  # type: ignore[type-abstract]
    arguments = {name: value for name, value in settings.items() if name != "_target_"}
    try:
        if cls is CSVLogger and arguments.get("save_dir") is None:
            return CSVTable(folder, **{name: value for name, value in arguments.items() if name != "save_dir"})
        return cls(**{"save_dir": str(folder.path), **arguments})
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(f"{key}: cannot build {cls.__name__}: {error}") from error


def close_loggers(loggers: list[Logger], exit_code: int) -> None:
    """Close all loggers at the end of a run, after its record was written.

    Args:
        loggers: the loggers that `build_loggers` returned.
        exit_code: 0 if the run finished, 1 if it failed or was stopped.
    """
    for logger in loggers:
        if isinstance(logger, WeightsAndBiases):
            logger.close(exit_code)
        else:
            logger.finalize("success" if exit_code == 0 else "failed")


def sync_hint(loggers: list[Logger]) -> str | None:
    """Return the command that uploads the records of Weights & Biases from the disk; None if there is nothing to upload."""
    hints = [logger.sync_hint() for logger in loggers if isinstance(logger, WeightsAndBiases)]
    return next((hint for hint in hints if hint), None)
