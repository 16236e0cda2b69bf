"""The logs of the members of a group, which is one process: each line goes into train.log of the run that it is about."""

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
    """Writes what is said about a member into its log, and what is said about none into those of all."""

    def __init__(self) -> None:
        super().__init__()
        self._all: list[Path] = []
        self._about: Path | None = None
        self.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def add(self, folder: RunFolder) -> None:
        """Write into the log of one more member."""
        self._all.append(folder.train_log)

    def drop(self, folder: RunFolder) -> None:
        """Write no more into the log of a member that has ended."""
        self._all.remove(folder.train_log)

    @contextmanager
    def about(self, folder: RunFolder) -> Iterator[None]:
        """Take what is said for one member's."""
        before, self._about = self._about, folder.train_log
        try:
            yield
        finally:
            self._about = before

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) + "\n"
        for file in self._all if self._about is None else [self._about]:
            with append_below(file.parent, file.name) as opened:
                opened.write(text.encode(errors="backslashreplace"))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is said below."""
        with log_to(None, quiet=True):
            warnings.filterwarnings("ignore", message=".*configure_optimizers. returned .None.")
            root = logging.getLogger()
            root.addHandler(self)
            try:
                yield
            finally:
                root.removeHandler(self)
