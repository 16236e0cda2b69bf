"""The ledger: the jobs of a sweep, written to disk before the first one starts.

    outputs/sweeps/<name>/
      ledger.jsonl     the sweep (name, command, code), then one line per job: overrides, config hash, folder, frozen config
      states.jsonl     a cache of the states in the jobs' run.json files, to list thousands of jobs without opening each
      <job>/           the run folder of each job, named after its values and the hash of its config

A job is defined by its frozen config: later changes of conf/ affect only jobs that are not in the ledger yet. The state of a job
is in its run.json; an entry of states.jsonl is ignored if run.json is newer.
"""

import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import SchemaValidator
from pydantic_core import core_schema as core

from src.core.errors import UserError
from src.core.files import append_below, open_below, remove_below, replace_below
from src.core.records import FORMAT_VERSION, RecordError, check_schema, object_schema, parse_json, read_lines
from src.run_store.config_hash import config_hash
from src.run_store.provenance import git_state
from src.run_store.run_folder import RunFolder
from src.sweeping.naming import job_name

log = logging.getLogger(__name__)
LEDGER, STATES, LOCK = "ledger.jsonl", "states.jsonl", ".lock"
MAX_LEDGER_BYTES = 512 * 2**20
"""Maximum size of a ledger."""
MAX_JOBS = 300_000
"""Maximum number of jobs in a sweep."""
LARGEST_VALUE = 1e300
"""Largest value of a metric; the difference of two larger ones may overflow, and plots need it."""
MAX_WARNINGS = 20
"""Maximum number of damaged lines that are reported; the rest of the ledger is then skipped."""
OWN_FOLDERS = ("output", "cluster", "plots")
"""Folders of a sweep other than those of its jobs."""
OWN_NAMES = (*OWN_FOLDERS, LEDGER, STATES, "report.html", "study.journal", "wandb")
"""Names of a sweep's own files and folders, which a job folder must not have."""


@dataclass(frozen=True)
class Job:
    """One point of a sweep.

    Args:
        number: its position in the ledger, from 1.
        overrides: all overrides of its config.
        label: the overrides that differ between the jobs of the sweep.
        digest: hash of its config.
        slug: name of its folder.
        changes: the sections of its config that differ from the sweep's base.
    """

    number: int
    overrides: tuple[str, ...]
    label: tuple[str, ...]
    digest: str
    slug: str
    changes: dict[str, Any] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return " ".join(self.label) or "the only point"


@dataclass(frozen=True)
class State:
    """The state of a job.

    Args:
        status: ``pending`` (never started), ``running``, ``interrupted``, ``failed``, ``pruned`` or ``finished``.
        metric, mode, value: its monitored metric, the direction, and the best value.
        seconds: training time.
        error: the last line of its traceback.
    """

    status: str = "pending"
    metric: str = ""
    mode: str = "min"
    value: float | None = None
    seconds: float = 0.0
    error: str = ""


def _job_folder(name: str) -> str:
    """Return the name of a job's folder, which must be one plain path component and no name of a sweep's own files.

    Raises:
        ValueError: for any other name.
    """
    if not re.fullmatch(r"[\w+][\w.+-]{0,199}", name) or name.casefold() in OWN_NAMES:
        raise ValueError(f"{name!r} is not the folder of a job")
    return name


class Ledger:
    """The jobs of a sweep on disk. `create` makes a new ledger, `open` reads one; `add` and `save` extend it.

    Args:
        folder: folder of the sweep.
        head: name, command, code and the base of all configs.
        jobs: in their order.
    """

    def __init__(self, folder: Path, head: dict[str, Any], jobs: Iterable[Job] = ()) -> None:
        self.folder = folder
        self.head = head
        self.jobs: list[Job] = list(jobs)
        self._by_digest = {job.digest: job for job in self.jobs}
        self._by_overrides = {job.overrides: job for job in self.jobs}
        self._states: dict[str, tuple[int, State]] | None = None
        self._states_intact = True

    # ---- on disk -------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, name: str, command: Sequence[str]) -> "Ledger":
        """Create a ledger; nothing is written before `save`."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            folder, {"version": FORMAT_VERSION, "name": name, "command": list(command), "created": now, "base": {}}
        )

    @classmethod
    def open(cls, folder: Path, on_damage: Callable[[str], object] | None = None) -> "Ledger":
        """Read a ledger; an incomplete last line, as a crash leaves it, is skipped.

        Args:
            folder: folder of the sweep.
            on_damage: called with a message for each damaged line, which is then skipped; None raises an error instead.

        Raises:
            UserError: if there is none, or if it is damaged or has another version.
        """
        file = folder / LEDGER
        try:
            with open_below(folder, LEDGER) as opened:
                size = os.fstat(opened.fileno()).st_size
                if size > MAX_LEDGER_BYTES:
                    raise UserError(f"{file}: this ledger has more than {MAX_LEDGER_BYTES / 2**20:,.0f} MiB")
                lines = read_lines(opened, file, max_lines=MAX_JOBS + 1)
                head = _head(next(lines, b""), file)
                return cls(folder, head, _jobs(lines, file, on_damage))
        except OSError as error:
            raise UserError(f"{folder}: there is no ledger of a sweep here ({error.strerror})") from error
        except RecordError as error:
            raise UserError(f"{file}: this ledger is damaged\n{error}") from error

    def trusted(self, overrides: Sequence[str] = ()) -> "Ledger":
        """Return this ledger after checking that its jobs may run here; see `src.config.trust`.

        Args:
            overrides: overrides of the command line, whose values do not come from the ledger.

        Raises:
            UserError: if a recorded config names a class that is not trusted, or controls what is written or contacted, or if
                a job's folder is a link.
        """
        from src.config.trust import (
            check_recorded_config,
            check_recorded_overrides,
        )  # imports a table of classes that readers of a ledger do not need

        file = self.folder / LEDGER
        for name in OWN_FOLDERS:
            path = self.folder / name
            if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
                raise UserError(f"{path}: this is a link or a file, and a folder of the sweep is expected")
        if self.head["base"]:
            self.head["base"] = check_recorded_config(self.head["base"], file, changes=overrides)
        for job in self.jobs:
            name = f"{file}, job {job.number}"
            if job.changes:
                check_recorded_config(job.changes, Path(name), changes=overrides)
            config = self.config(job)
            _check_frozen(config, name)
            if config_hash(config) != job.digest and not _has_absolute_paths(config):  # the project may have been moved
                raise RecordError(f"{name}: its hash is not that of its config")
            self.path(job)
        for overrides_of_jobs in (self.head.get("search") or {}).get("overrides", ()):
            check_recorded_overrides(overrides_of_jobs, file)
        return self

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Return whether the folder has a ledger file, which `open` then reads or rejects."""
        return os.path.lexists(folder / LEDGER)

    def save(self) -> None:
        """Write the whole ledger, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_below(self.folder, LEDGER) as file:
            file.write(_encoded(_line(self.head)))
            file.writelines(_encoded(_job_line(job)) for job in self.jobs)

    def append(self, job: Job) -> None:
        """Append one job, as a search proposes it."""
        with append_below(self.folder, LEDGER) as file:
            file.write(_encoded(_job_line(job)))
            file.flush()
            os.fsync(file.fileno())

    # ---- jobs ----------------------------------------------------------------------------------------------------

    def find(self, overrides: Sequence[str]) -> Job | None:
        """Return the job with these overrides, if it is in the ledger."""
        return self._by_overrides.get(tuple(overrides))

    def with_digest(self, digest: str) -> Job | None:
        """Return the job with this config hash, if it is in the ledger."""
        return self._by_digest.get(digest)

    def add(self, overrides: Sequence[str], label: Sequence[str], config: Mapping[str, Any]) -> Job:
        """Add a job. If there is one with the same config hash, update its overrides and config instead (they then differ only
        in what has no influence on the result).

        Args:
            overrides: all overrides of its config.
            label: the overrides to display.
            config: resolved and checked.

        Raises:
            UserError: if the ledger has `MAX_JOBS` already.
        """
        if not self.head["base"]:
            self.head["base"] = dict(config)
        base = self.head["base"]
        changes = {key: value for key, value in config.items() if key not in base or value != base[key]}
        digest = config_hash(config)
        existing = self._by_digest.get(digest)
        if existing is None and len(self.jobs) >= MAX_JOBS:
            raise UserError(f"{self.folder}: a sweep has at most {MAX_JOBS:,} jobs; give the others another sweep.name")
        job = Job(
            number=existing.number if existing else len(self.jobs) + 1,
            overrides=tuple(overrides),
            label=tuple(label),
            digest=digest,
            slug=existing.slug if existing else job_name(label, digest),
            changes=changes,
        )
        if existing:
            self.jobs[existing.number - 1] = job
            self._by_overrides.pop(existing.overrides, None)
        else:
            self.jobs.append(job)
        self._by_digest[digest] = self._by_overrides[job.overrides] = job
        return job

    def config(self, job: Job) -> dict[str, Any]:
        """Return the frozen config of a job."""
        return {**self.head["base"], **job.changes}

    def path(self, job: Job) -> Path:
        """Return the run folder of a job.

        Raises:
            UserError: if it is a link.
        """
        path = self.folder / job.slug
        if path.is_symlink():
            raise UserError(f"{path}: this is a link; the folder of a job is within its sweep")
        return path

    # ---- states --------------------------------------------------------------------------------------------------

    def states(self) -> dict[int, State]:
        """Return the state of each job, by number. Only records that changed since the last call are read."""
        cached = self._cached_states()
        try:
            present = {entry.name for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False)}
        except OSError:
            present = set()
        states, new_lines = {}, []
        for job in self.jobs:
            state, line = self._state(job, cached) if job.slug in present else (State(), None)
            states[job.number] = state
            if line is not None:
                new_lines.append(line)
        if new_lines:
            self._write_states(new_lines)
        return states

    def refresh(self, job: Job) -> State:
        """Return the state of one job, and write it to states.jsonl."""
        state, line = self._state(job, self._cached_states())
        if line is not None:
            self._write_states([line])
        return state

    def _state(self, job: Job, cached: dict[str, tuple[int, State]]) -> tuple[State, str | None]:
        """Return a job's state, and a line for states.jsonl unless the cache has it already."""
        path = self.path(job)
        try:
            written = os.lstat(path / "run.json").st_mtime_ns
        except OSError:
            return State(), None
        if job.slug in cached and cached[job.slug][0] == written:
            return cached[job.slug][1], None
        try:
            folder = RunFolder.open(path)
        except UserError as error:
            return State("unknown", error=str(error)), None
        state = _state_of(folder.record)
        if state.status == "running":
            return (state if folder.alive else _state_of(folder.record | {"status": "interrupted"})), None
        cached[job.slug] = written, state
        return state, _state_line(job.slug, cached[job.slug])

    def _cached_states(self) -> dict[str, tuple[int, State]]:
        """Return the content of states.jsonl. It is a cache: if it is damaged, `_write_states` rewrites it."""
        if self._states is None:
            self._states = {}
            try:
                with open_below(self.folder, STATES) as file:
                    for line in read_lines(file, self.folder / STATES):
                        entry = check_schema(_STATE_LINE, parse_json(line, STATES), STATES)
                        if not line.endswith(b"\n"):
                            raise RecordError(f"{STATES}: its last line is incomplete")
                        job, written = entry.pop("job"), entry.pop("written")
                        self._states[job] = written, State(**entry)
            except FileNotFoundError:
                pass
            except (OSError, UserError) as error:
                log.debug("%s: this cache is rewritten: %s", self.folder / STATES, error)
                self._states_intact = False
        return self._states

    def _write_states(self, lines: Sequence[str]) -> None:
        """Append lines to states.jsonl, or replace it if it is damaged."""
        try:
            if self._states_intact:
                with append_below(self.folder, STATES) as file:
                    file.write(_encoded("".join(lines)))
            else:
                with replace_below(self.folder, STATES) as file:
                    file.writelines(_encoded(_state_line(*entry)) for entry in self._cached_states().items())
                self._states_intact = True
        except UserError:
            self._states_intact = False
        except OSError as error:
            log.debug("%s: states cannot be cached: %s", self.folder / STATES, error)

    # ---- the code ------------------------------------------------------------------------------------------------

    def code_changed(self) -> str | None:
        """Return how the code differs from that with which the sweep was started; None if it does not."""
        now = code_state()
        before = self.head.setdefault("code", now)
        if before is None or now is None or before == now:
            return None
        if before["revision"] != now["revision"]:
            return (
                f"the code is now at revision {now['revision'][:9]}, the sweep was started at {before['revision'][:9]}"
            )
        return f"files were changed since the sweep was started (revision {now['revision'][:9]}, see git diff)"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a sweep against a second process; the operating system releases the lock even if this process is killed.

    Args:
        folder: folder of the sweep; it is created, and removed again if no ledger was written.

    Raises:
        UserError: if the sweep is running already.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: this folder cannot be made: {error.strerror}") from error
    try:
        with _lock_file(folder) as handle:
            _lock(handle.fileno(), folder)
            yield
    finally:
        if not Ledger.exists(folder):
            with suppress(OSError, UserError):
                remove_below(folder, LOCK)
                for path in created:
                    path.rmdir()


def _lock_file(folder: Path) -> BinaryIO:
    try:
        return append_below(folder, LOCK)
    except OSError as error:
        raise UserError(f"{folder / LOCK}: cannot be opened: {error.strerror}") from error


def _lock(handle: int, folder: Path) -> None:
    try:
        import fcntl

        for _ in range(20):  # the lock of a driver that was just killed takes a moment to be released
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.1)
    except (ImportError, OSError) as error:
        log.debug("%s: no lock: %s", folder, error)  # some systems and network file systems have none
        return
    raise UserError(f"{folder}: this sweep is running already")


def code_state() -> dict[str, str] | None:
    """Return the revision of the code and a hash of the uncommitted changes; None outside a repository."""
    state = git_state()
    if state is None:
        return None
    changed = hashlib.sha256("\n".join([state["diff"], *state["untracked"]]).encode()).hexdigest()[:12]
    return {"revision": state["revision"], "changed": changed}


def _state_of(record: Mapping[str, Any]) -> State:
    """Return the state that a run.json records; a value of an unexpected type counts as unknown."""
    error = str(record.get("error") or "").strip().splitlines()
    status, metric, mode = record.get("status"), record.get("monitor"), record.get("mode")
    seconds = _finite(record.get("seconds"))
    return State(
        status=status if status in _STATUSES else "unknown",
        metric=metric if isinstance(metric, str) else "",
        mode="max" if mode == "max" else "min",
        value=_finite(record.get("value")),
        seconds=max(seconds or 0.0, 0.0),
        error=error[-1] if error else "",
    )


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) and abs(value) <= LARGEST_VALUE else None
    except OverflowError:
        return None


_ANYTHING = core.dict_schema(core.str_schema())
_TEXT = core.str_schema()
_TEXTS = core.list_schema(_TEXT)
_COUNT = core.int_schema()
_VALUE = core.float_schema(allow_inf_nan=False, ge=-LARGEST_VALUE, le=LARGEST_VALUE)

_HEAD = SchemaValidator(
    object_schema(
        required={"version": _COUNT, "name": _TEXT, "command": _TEXTS, "created": _TEXT, "base": _ANYTHING},
        optional={
            "code": core.nullable_schema(object_schema({"revision": _TEXT, "changed": _TEXT}, {}, others="forbid")),
            "search": core.nullable_schema(
                object_schema({"settings": _ANYTHING, "overrides": core.list_schema(_TEXTS)}, {}, others="forbid")
            ),
        },
        others="forbid",
    )
)
"""The first line of a ledger: the code as `code_state` returns it, and what the last command asked of a search, that is
checked settings and the overrides that its jobs share or vary.
"""

_JOB_LINE = SchemaValidator(
    object_schema(
        required={
            "number": core.int_schema(gt=0),
            "overrides": _TEXTS,
            "label": _TEXTS,
            "hash": core.str_schema(pattern=r"^[0-9a-f]{12}$"),
            "folder": core.no_info_after_validator_function(_job_folder, _TEXT),
            "changes": _ANYTHING,
        },
        optional={},
        others="forbid",
    )
)
"""A further line of a ledger."""

_STATE_LINE = SchemaValidator(
    object_schema(
        required={
            "job": _TEXT,
            "written": _COUNT,
            "status": core.literal_schema(["interrupted", "failed", "pruned", "finished", "unknown"]),
            "metric": _TEXT,
            "mode": core.literal_schema(["min", "max"]),
            "value": core.nullable_schema(_VALUE),
            "seconds": core.float_schema(allow_inf_nan=False, ge=0),
            "error": _TEXT,
        },
        optional={},
        others="forbid",
    )
)
"""A line of states.jsonl."""

_STATUSES = ("running", "interrupted", "failed", "pruned", "finished", "unknown")


def _head(line: bytes, file: Path) -> dict[str, Any]:
    name = f"{file}, line 1"
    head: dict[str, Any] = check_schema(_HEAD, parse_json(line, name), name)
    if head["version"] != FORMAT_VERSION:
        raise UserError(f"{file}: a ledger of version {head['version']}; this code reads version {FORMAT_VERSION}")
    return head


def _jobs(lines: Iterator[bytes], file: Path, on_damage: Callable[[str], object] | None) -> Iterator[Job]:
    """Yield the jobs of the lines after the first; see `Ledger.open`."""
    seen: set[str] = set()
    bad = 0
    for number, text in enumerate(lines, 2):
        name = f"{file}, line {number}"
        try:
            job = _job(check_schema(_JOB_LINE, parse_json(text, name), name))
            if job.number != number - 1:
                raise RecordError(f"{name}: number: this is job {number - 1}, not {job.number}")
            if not f"_{job.slug}".endswith(f"_{job.digest}"):
                raise RecordError(f"{name}: folder: it does not end in the job's hash")
            if seen & {job.digest, job.slug}:
                raise RecordError(f"{name}: another job has this folder or hash")
        except RecordError as error:
            if not text.endswith(b"\n"):  # a search appends line by line
                log.warning("%s: its last line is incomplete and is skipped", file)
                return
            if on_damage is None:
                raise
            bad += 1
            if bad > MAX_WARNINGS:
                on_damage(f"{file}: more than {MAX_WARNINGS} lines are damaged; the rest is skipped")
                return
            on_damage(str(error))
        else:
            seen |= {job.digest, job.slug}
            yield job


_SECTIONS = ("model", "datamodule", "optimizer", "scheduler", "trainer", "callbacks", "logger")


def _check_frozen(config: Mapping[str, Any], name: object) -> None:
    """Raise `RecordError` if a frozen config lacks a field that the driver reads before the job itself checks all of it."""
    for section in _SECTIONS:
        if not isinstance(config.get(section), dict):
            raise RecordError(f"{name}: this frozen config has no section {section}")
    devices, epochs = config["trainer"].get("devices"), config["trainer"].get("max_epochs")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise RecordError(f"{name}: trainer.max_epochs: must be a whole number of 1 or more")
    too_few = isinstance(devices, int) and devices < 1
    if too_few or isinstance(devices, bool) or not isinstance(devices, str | int | list):
        raise RecordError(f"{name}: trainer.devices: must be a number, a list of numbers, or a text")
    for section, key in (("datamodule", "name"), ("model", "name"), ("optimizer", "_target_")):
        if not isinstance(config[section].get(key), str):
            raise RecordError(f"{name}: {section}.{key}: must be a text")
    if not isinstance(config.get("monitor"), str | None):
        raise RecordError(f"{name}: monitor: must be a text")


def _has_absolute_paths(node: Any) -> bool:
    if isinstance(node, dict):
        return any(map(_has_absolute_paths, node.values()))
    if isinstance(node, list):
        return any(map(_has_absolute_paths, node))
    return isinstance(node, str) and Path(node).is_absolute()


def _job(line: Mapping[str, Any]) -> Job:
    overrides, label = tuple(line["overrides"]), tuple(line["label"])
    return Job(line["number"], overrides, label, line["hash"], line["folder"], line["changes"])


def _job_line(job: Job) -> str:
    return _line(
        {
            "number": job.number,
            "overrides": job.overrides,
            "label": job.label,
            "hash": job.digest,
            "folder": job.slug,
            "changes": job.changes,
        }
    )


def _state_line(job: str, entry: tuple[int, State]) -> str:
    written, state = entry
    return _line({"job": job, "written": written, **vars(state)})


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"


def _encoded(lines: str) -> bytes:
    """Encode lines as UTF-8; a lone surrogate, which UTF-8 cannot encode, becomes its JSON escape."""
    return lines.encode(errors="backslashreplace")


ACTIONS = {
    "pending": "run",
    "finished": "skip",
    "pruned": "skip",
    "interrupted": "resume",
    "unknown": "resume",
    "failed": "retry",
    "running": "runs elsewhere",
}
"""The action that a sweep takes for a job in each state."""
