"""Minimum interval between writes at the ends of epochs: as for a separate run, but longer where writing takes long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL_FACTOR = 20.0
"""Minimum interval between two writes, in times of the duration of a write."""
SECONDS_PER_MEMBER = 0.005
"""Assumed duration of a write for each member, before one was timed."""


class WriteInterval:
    """Decides whether the write at the end of an epoch is deferred.

    Args:
        min_interval: seconds between two writes of a separate run (``callbacks.checkpoints.min_interval``).
        members: number of members. Where writing takes long, the interval grows up to `min_interval` times `members`.
        clock: returns the time in seconds.
    """

    def __init__(self, min_interval: float, members: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._min_interval, self._max_interval = min_interval, min_interval * members
        self._interval = self._interval_for(SECONDS_PER_MEMBER * members)
        self._clock = clock
        self._last_write = clock()

    def should_defer(self) -> bool:
        """Return whether the last write is more recent than the interval."""
        return self._clock() - self._last_write < self._interval

    @contextmanager
    def measure_write(self) -> Iterator[None]:
        """Time the write in the body, and adapt the interval to it."""
        started = self._clock()
        yield
        self._last_write = self._clock()
        self._interval = self._interval_for(self._last_write - started)

    def _interval_for(self, write_seconds: float) -> float:
        return min(max(self._min_interval, INTERVAL_FACTOR * write_seconds), self._max_interval)
