"""The files through which a driver and a job on another machine speak; both see the sweep's folder."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from src.core.files import (
    MAX_RECORD_BYTES,
    append_below,
    make_folder_below,
    open_below,
    plain_name,
    read_below,
    remove_below,
    write_below,
)
from src.core.records import parse_json
from src.errors import UserError
from src.sweeping.worker import PRUNE, STOP, Assignment, Ended, Event, Orders, Progress, carry_out, prepare

LISTENS_EVERY = 1.0
"""Seconds between two looks of a job for orders."""


class Mailbox:
    """Events of a job, a line each, and the order that it was given. It outlives either side.

    Args:
        folder: of the mailboxes of a sweep.
        name: of the job.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._sweep = folder.parent
        self._events = f"{folder.name}/{plain_name(name)}.events"
        self._order = f"{folder.name}/{name}.order"
        self._read = 0

    def clear(self) -> None:
        """Take everything out, before the job is submitted anew."""
        make_folder_below(self._sweep, Path(self._events).parent)
        remove_below(self._sweep, self._events)
        remove_below(self._sweep, self._order)
        self._read = 0

    def post(self, event: Event) -> None:
        """Put an event in; called by the job."""
        with append_below(self._sweep, self._events) as file:  # the first line break ends a line that a kill tore
            file.write(f"\n{json.dumps(vars(event))}\n".encode())

    def collect(self) -> list[Event]:
        """Return the events that were not collected before; called by the driver."""
        try:
            with open_below(self._sweep, self._events) as file:
                file.seek(self._read)
                lines = file.read(MAX_RECORD_BYTES)
        except OSError:
            return []
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole) or len(lines) * (len(lines) == MAX_RECORD_BYTES)  # a line without an end is skipped
        return [event for line in whole.splitlines() if (event := _event(line)) is not None]

    def give(self, order: str) -> None:
        """Leave an order for the job, which reads it within a second or two; called by the driver."""
        write_below(self._sweep, self._order, order)

    def order(self) -> str | None:
        """Return the order that was given, if there is one; called by the job."""
        with suppress(OSError):
            order = read_below(self._sweep, self._order, 100).decode(errors="replace")
            return order if order in (STOP, PRUNE) else None
        return None


class _Progress(BaseModel, extra="forbid"):
    number: int
    epoch: int
    epochs: int
    metrics: dict[str, float]


class _Ended(BaseModel, extra="forbid"):
    number: int
    status: Literal["finished", "failed", "interrupted", "pruned"]
    error: str = ""


def _event(line: bytes) -> Event | None:
    """Return an event, or None for a line that is none."""
    with suppress(UserError, ValidationError):
        entry = parse_json(line, "event") if line.strip() else None
        if isinstance(entry, dict) and "status" in entry:
            return Ended(**_Ended.model_validate(entry).model_dump())
        if isinstance(entry, dict):
            return Progress(**_Progress.model_validate(entry).model_dump())
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
