"""The files through which a driver and a job on another machine speak; both see the sweep's folder."""

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from pydantic_core import SchemaValidator
from pydantic_core import core_schema as core

from src.core.errors import UserError
from src.core.files import (
    append_below,
    make_folder_below,
    open_below,
    plain_name,
    read_below,
    remove_below,
    write_below,
)
from src.core.records import check_schema, object_schema, parse_json
from src.sweeping.messages import PRUNE, STOP, Assignment, Ended, Event, Progress
from src.sweeping.worker import Orders, carry_out, prepare

log = logging.getLogger(__name__)

LISTENS_EVERY = 1.0
"""Seconds between two looks of a job for orders."""


ORDERS = (STOP, PRUNE)
"""What an order says."""

MAX_EVENT_BYTES = 2**20
"""The most bytes of one event, which may hold a traceback."""

MAX_COLLECTED_BYTES = 64 * 2**20
"""The most bytes that are read at a time; the rest is read the next time."""


class Mailbox:
    """Events of a job, a line each, and the order that it was given. It outlives either side.

    Others may write into the folder of a sweep, so that whatever is no event or order of this job is ignored.

    Args:
        folder: of the mailboxes of a sweep, directly below that.
        name: of the job.
        number: of the job, where its events are collected; None takes those of any.
    """

    def __init__(self, folder: Path, name: str, number: int | None = None) -> None:
        plain_name(name, "the name of a job")
        self._sweep, self._folder = folder.parent, folder.name
        self._events = f"{folder.name}/{name}.events"
        self._order = f"{folder.name}/{name}.order"
        self._number = number
        self._read = 0
        self._warned = False

    def clear(self) -> None:
        """Take everything out, before the job is submitted anew."""
        make_folder_below(self._sweep, self._folder)
        remove_below(self._sweep, self._events)
        remove_below(self._sweep, self._order)
        self._read = 0

    def post(self, event: Event) -> None:
        """Put an event in; called by the job."""
        entry = vars(event)
        if isinstance(event, Ended):
            entry = entry | {"error": event.error[-MAX_EVENT_BYTES // 8 :]}
        with append_below(self._sweep, self._events) as file:  # the first line break ends a line that a kill tore
            file.write(f"\n{json.dumps(entry)}\n".encode())

    def collect(self) -> list[Event]:
        """Return the events that were not collected before; called by the driver."""
        try:
            with open_below(self._sweep, self._events) as file:
                file.seek(self._read)
                lines = file.read(MAX_COLLECTED_BYTES)
        except FileNotFoundError:
            return []
        except (OSError, UserError) as error:
            self._warn(str(error))
            return []
        whole = lines[: lines.rfind(b"\n") + 1]
        if not whole and len(lines) == MAX_COLLECTED_BYTES:
            whole = lines
        self._read += len(whole)
        return [event for line in whole.split(b"\n") if line and (event := self._event(line)) is not None]

    def give(self, order: str) -> None:
        """Leave an order for the job, which reads it within a second or two; called by the driver."""
        write_below(self._sweep, self._order, order)

    def order(self) -> str | None:
        """Return the order that was given, if there is one; called by the job."""
        with suppress(OSError, UserError):
            order = read_below(self._sweep, self._order, 64).decode(errors="replace")
            return order if order in ORDERS else None
        return None

    def _event(self, line: bytes) -> Event | None:
        name = f"{self._sweep / self._events}"
        if len(line) > MAX_EVENT_BYTES:
            self._warn(f"{name}: a line has more than {MAX_EVENT_BYTES:,} bytes")
            return None
        try:
            entry = parse_json(line, name)
        except UserError as error:  # of a line that a kill tore, too
            log.debug("%s", error)
            return None
        event: Event
        try:
            if isinstance(entry, dict) and "status" in entry:
                event = Ended(**check_schema(_ENDED, entry, name))
            else:
                event = Progress(**check_schema(_PROGRESS, entry, name))
        except UserError as error:
            self._warn(str(error))
            return None
        if self._number is not None and event.number != self._number:
            self._warn(f"{name}: an event is about another job, {event.number}")
            return None
        return event

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s; this and further such lines are ignored", text)


_NUMBER = core.int_schema()

_ENDED = SchemaValidator(
    object_schema(
        required={"number": _NUMBER, "status": core.literal_schema(["finished", "failed", "interrupted", "pruned"])},
        optional={"error": core.str_schema()},
        others="forbid",
    )
)
"""The line of an `Ended`."""

_PROGRESS = SchemaValidator(
    object_schema(
        required={
            "number": _NUMBER,
            "epoch": core.int_schema(ge=0),
            "epochs": core.int_schema(ge=1),
            "metrics": core.dict_schema(core.str_schema(), core.float_schema()),
        },
        optional={},
        others="forbid",
    )
)
"""The line of a `Progress`."""


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
