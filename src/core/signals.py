"""Ctrl-C and SIGTERM: the first is obeyed between two steps, after a checkpoint; the second at once."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from src.core.console import echo


class StopRequest:
    """Whether this process was asked to stop. `Checkpoints` waits for it while it can save between two steps."""

    def __init__(self) -> None:
        self.awaited = False
        self.made = False

    def __call__(self, number: int, frame: object) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: if nobody waits for it, or if it was made before.
        """
        if not self.awaited or self.made:
            raise KeyboardInterrupt
        self.made = True
        echo("stopping after this step, with a checkpoint; once more stops at once", file=sys.stderr, flush=True)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM over for a run."""
        self.awaited = self.made = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


stop_request = StopRequest()
"""Of this process, which has one run at a time."""
