"""When the ends of epochs of a group are written: as for a run of its own, but that its members' files take longer."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WRITING = 20.0
"""The least time between two ends of epochs that are written, in times of what writing takes."""
A_MEMBER = 0.005
"""Seconds that writing takes, for each member, as long as it was not timed."""


class Pauses:
    """Tells whether the end of an epoch need not be written.

    Args:
        pause: seconds between two that are written, of a run of its own (``callbacks.checkpoints.pause``).
        members: where writing takes long, the pause grows up to as many times of that.
        clock: tells the seconds.
    """

    def __init__(self, pause: float, members: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._least, self._longest = pause, pause * members
        self._pause = self._after(A_MEMBER * members)
        self._clock = clock
        self._written_at = clock()

    def too_soon(self) -> bool:
        return self._clock() - self._written_at < self._pause

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Note how long it takes to write."""
        began = self._clock()
        yield
        self._written_at = self._clock()
        self._pause = self._after(self._written_at - began)

    def _after(self, writing: float) -> float:
        """Return the pause where writing takes so many seconds."""
        return min(max(self._least, WRITING * writing), self._longest)
