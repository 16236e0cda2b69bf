"""Logging to train.log of a run folder and to the terminal."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from src.core.console import LogFormatter
from src.core.files import append_below


class _RunLogHandler(logging.FileHandler):
    """Appends to the log file of a run, without following a link."""

    def _open(self) -> Any:
        file = Path(self.baseFilename)
        return TextIOWrapper(append_below(file.parent, file.name), encoding="utf-8", errors="backslashreplace")


_IRRELEVANT_WARNINGS = (
    "does not have many workers",
    "log_every_n_steps",
    "Checkpoint directory.*exists",
    "LeafSpec",
    "sync_dist=True",
    "`srun` command is available",
    "TF32 acceleration on top of oneDNN",  # from torch
)
"""Warnings of Lightning that do not apply here, as patterns."""


@contextmanager
def log_to(file: Path | None, quiet: bool = False) -> Iterator[None]:
    """Write the log within the context to a file, if one is given, and warnings to the terminal unless `quiet`."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(_RunLogHandler(file, encoding="utf-8", delay=True))
        handlers[-1].setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if not quiet:
        handlers.append(logging.StreamHandler())
        handlers[-1].setLevel(logging.WARNING)
        handlers[-1].setFormatter(LogFormatter("%(levelname)s: %(message)s"))
    lightning_logs = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    before = [(logger, logger.handlers, logger.propagate) for logger in lightning_logs]
    for logger in lightning_logs:  # send its messages to the file only
        logger.handlers, logger.propagate = [], True
    level = root.level
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for handler in handlers:
        root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            for text in _IRRELEVANT_WARNINGS:
                warnings.filterwarnings("ignore", message=f".*{text}")
            yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        for logger, old_handlers, propagate in before:
            logger.handlers, logger.propagate = old_handlers, propagate
        logging.captureWarnings(False)
