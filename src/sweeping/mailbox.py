"""The files through which a driver and a job on another machine speak; both see the sweep's folder."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from src.sweeping.worker import Assignment, Ended, Event, Orders, Progress, carry_out, prepare

LISTENS_EVERY = 1.0
"""Seconds between two looks of a job for orders."""


class Mailbox:
    """Events of a job, a line each, and the order that it was given. It outlives either side.

    Args:
        folder: of the mailboxes of a sweep.
        name: of the job.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._events = folder / f"{name}.events"
        self._order = folder / f"{name}.order"
        self._read = 0

    def clear(self) -> None:
        """Take everything out, before the job is submitted anew."""
        self._events.parent.mkdir(parents=True, exist_ok=True)
        self._events.unlink(missing_ok=True)
        self._order.unlink(missing_ok=True)
        self._read = 0

    def post(self, event: Event) -> None:
        """Put an event in; called by the job."""
        with self._events.open("a", encoding="utf-8") as file:  # the first line break ends a line that a kill tore
            file.write(f"\n{json.dumps(vars(event))}\n")

    def collect(self) -> list[Event]:
        """Return the events that were not collected before; called by the driver."""
        try:
            with self._events.open("rb") as file:
                file.seek(self._read)
                lines = file.read()
        except OSError:
            return []
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        return [event for line in whole.splitlines() if (event := _event(line)) is not None]

    def give(self, order: str) -> None:
        """Leave an order for the job, which reads it within a second or two; called by the driver."""
        self._order.write_text(order, encoding="utf-8")

    def order(self) -> str | None:
        """Return the order that was given, if there is one; called by the job."""
        with suppress(OSError):
            return self._order.read_text(encoding="utf-8") or None
        return None


def _event(line: bytes) -> Event | None:
    with suppress(ValueError, TypeError):
        entry = json.loads(line)
        return Ended(**entry) if "status" in entry else Progress(**entry)
    return None


def work_by_mail(assignment: Assignment, mailbox: Mailbox, *meanwhile: Callable[[Orders], None]) -> bool:
    """Do one job on whatever machine this is; its end is posted unless it was told on this side to stop.

    Args:
        assignment: the job.
        mailbox: of the job.
        meanwhile: run in threads of their own and may stop the job, as a scheduler's signal does.

    Returns:
        Whether the job has ended, and does not wait to go on.
    """
    prepare(assignment)
    orders = Orders(mailbox.post)
    if mailbox.order() is not None:
        orders.send(Ended(assignment.number, "interrupted"))
        return True
    for listen in (partial(_listen, mailbox, orders), *(partial(other, orders) for other in meanwhile)):
        threading.Thread(target=listen, daemon=True).start()
    ended = carry_out(assignment, orders)
    for_good = ended.status != "interrupted" or mailbox.order() is not None
    if for_good:
        orders.send(ended)
    return for_good


def _listen(mailbox: Mailbox, orders: Orders) -> None:
    while True:
        time.sleep(LISTENS_EVERY)
        if (order := mailbox.order()) is not None:
            orders.obey(order)
            return
