"""Logs of the members of a group, which share one process: each line is written to train.log of the run that it concerns."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.core.console import LogFormatter
from src.core.files import append_below
from src.run_store.run_folder import RunFolder
from src.run_store.train_log import log_to


class MembersLog(logging.Handler):
    """Writes log lines that concern one member to its log, and all other lines to the logs of all members."""

    def __init__(self) -> None:
        super().__init__()
        self._all: list[Path] = []
        self._current: Path | None = None
        self.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def add(self, folder: RunFolder) -> None:
        """Write to the log of one more member."""
        self._all.append(folder.train_log)

    def remove(self, folder: RunFolder) -> None:
        """Stop writing to the log of a member that has ended."""
        self._all.remove(folder.train_log)

    @contextmanager
    def for_member(self, folder: RunFolder) -> Iterator[None]:
        """Write what is logged in the body to the log of one member."""
        previous, self._current = self._current, folder.train_log
        try:
            yield
        finally:
            self._current = previous

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) + "\n"
        for file in self._all if self._current is None else [self._current]:
            with append_below(file.parent, file.name) as opened:
                opened.write(text.encode(errors="backslashreplace"))

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Write what is logged in the body to the logs of the members."""
        with log_to(None, quiet=True):
            warnings.filterwarnings("ignore", message=".*configure_optimizers. returned .None.")
            root = logging.getLogger()
            root.addHandler(self)
            try:
                yield
            finally:
                root.removeHandler(self)
