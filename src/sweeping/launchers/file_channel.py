"""A file channel: messages between the driver of a sweep and a job on another machine, as files in the sweep's folder."""

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
from src.sweeping.worker import WorkerControl, carry_out, prepare

log = logging.getLogger(__name__)

CONTROL_POLL_SECONDS = 1.0
"""Seconds between two checks of a job for a control message."""


CONTROL_MESSAGES = (STOP, PRUNE)
"""What a driver may send to a job."""

MAX_EVENT_BYTES = 2**20
"""Maximum size of one event, which may hold a traceback."""

MAX_COLLECTED_BYTES = 64 * 2**20
"""Maximum number of bytes read at a time; the rest is read the next time."""


class FileChannel:
    """The events of a job, one per line, and the control message that the driver sent. The files survive both processes.

    Other users may be able to write to the folder of a sweep, so anything that is not an event or control message of this job is
    ignored.

    Args:
        folder: folder of the file channels of a sweep, directly below the sweep's folder.
        name: name of the job.
        number: number of the job whose events are collected; None accepts the events of any job.
    """

    def __init__(self, folder: Path, name: str, number: int | None = None) -> None:
        plain_name(name, "the name of a job")
        self._sweep, self._folder = folder.parent, folder.name
        self._events = f"{folder.name}/{name}.events"
        self._control = f"{folder.name}/{name}.order"
        self._number = number
        self._offset = 0
        self._warned = False

    def clear(self) -> None:
        """Remove all messages, before the job is submitted again."""
        make_folder_below(self._sweep, self._folder)
        remove_below(self._sweep, self._events)
        remove_below(self._sweep, self._control)
        self._offset = 0

    def post(self, event: Event) -> None:
        """Append an event; called by the job."""
        entry = vars(event)
        if isinstance(event, Ended):
            entry = entry | {"error": event.error[-MAX_EVENT_BYTES // 8 :]}
        with append_below(
            self._sweep, self._events
        ) as file:  # the first line break ends a line that was cut off by a kill
            file.write(f"\n{json.dumps(entry)}\n".encode())

    def collect(self) -> list[Event]:
        """Return the events since the last call; called by the driver."""
        try:
            with open_below(self._sweep, self._events) as file:
                file.seek(self._offset)
                lines = file.read(MAX_COLLECTED_BYTES)
        except FileNotFoundError:
            return []
        except (OSError, UserError) as error:
            self._warn(str(error))
            return []
        complete = lines[: lines.rfind(b"\n") + 1]
        if not complete and len(lines) == MAX_COLLECTED_BYTES:
            complete = lines
        self._offset += len(complete)
        return [event for line in complete.split(b"\n") if line and (event := self._event(line)) is not None]

    def send_control(self, message: str) -> None:
        """Write a control message, which the job reads within a second or two; called by the driver."""
        write_below(self._sweep, self._control, message)

    def control_message(self) -> str | None:
        """Return the control message, if the driver sent one; called by the job."""
        with suppress(OSError, UserError):
            message = read_below(self._sweep, self._control, 64).decode(errors="replace")
            return message if message in CONTROL_MESSAGES else None
        return None

    def _event(self, line: bytes) -> Event | None:
        name = f"{self._sweep / self._events}"
        if len(line) > MAX_EVENT_BYTES:
            self._warn(f"{name}: a line has more than {MAX_EVENT_BYTES:,} bytes")
            return None
        try:
            entry = parse_json(line, name)
        except UserError as error:  # also for a line that was cut off by a kill
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


def run_with_file_channel(
    assignment: Assignment, channel: FileChannel, *watchers: Callable[[WorkerControl], None]
) -> bool:
    """Run one job on this machine and post how it ended, unless something on this side (a scheduler's signal) stopped it.

    Args:
        assignment: the job.
        channel: channel of the job.
        watchers: each runs in its own thread and may stop the job, as a scheduler's signal does.

    Returns:
        Whether the job has ended for good, and will not be resumed.
    """
    prepare(assignment)
    control = WorkerControl(channel.post)
    if channel.control_message() is not None:
        control.send(Ended(assignment.number, "interrupted"))
        return True
    for listen in (partial(_listen, channel, control), *(partial(watcher, control) for watcher in watchers)):
        threading.Thread(target=listen, daemon=True).start()
    ended = carry_out(assignment, control)
    is_final = ended.status != "interrupted" or channel.control_message() is not None
    if is_final:
        control.send(ended)
    return is_final


def _listen(channel: FileChannel, control: WorkerControl) -> None:
    while True:
        time.sleep(CONTROL_POLL_SECONDS)
        if (message := channel.control_message()) is not None:
            control.stop(message)
            return
