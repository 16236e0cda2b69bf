"""Handle Ctrl-C and SIGTERM: the first signal stops after the current step, with a checkpoint; the second stops immediately."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from src.core.console import echo


class ShutdownRequest:
    """A request to stop this process.

    Attributes:
        deferrable: a signal may wait until `Checkpoints` has saved between two steps.
        received: a signal has arrived.
    """

    def __init__(self) -> None:
        self.deferrable = False
        self.received = False

    def __call__(self, number: int, frame: object) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: if the request is not deferrable, or if it is the second one.
        """
        if not self.deferrable or self.received:
            raise KeyboardInterrupt
        self.received = True
        echo("stopping after this step, with a checkpoint; a second signal stops at once", file=sys.stderr, flush=True)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM during a run."""
        self.deferrable = self.received = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


shutdown_request = ShutdownRequest()
"""The request of this process, which has one run at a time."""
