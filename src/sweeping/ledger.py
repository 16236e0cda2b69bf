"""The ledger: what a sweep consists of, written down before its first job starts.

    outputs/sweeps/<name>/
      ledger.jsonl     the sweep (name, command, code), then a line a job: words, config hash, folder, frozen config
      states.jsonl     what each job's run.json says, so that thousands of them are listed without opening them
      <job>/           the run folder of each job, named by its values and the hash of its config

A job is its frozen config: what conf/ says later changes only jobs that are not in the ledger yet. What became of a job
is told by its run.json alone; states.jsonl is a copy of that, and is not believed where run.json is newer.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    FiniteFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from src.config.trust import literal_config, refuse_overrides
from src.core.files import append_below, open_below, remove_below, replace_below
from src.core.records import FORMAT_VERSION, RecordError, lines_of, parse_json
from src.errors import UserError
from src.sweeping.naming import job_name
from src.tracking.provenance import git_state
from src.tracking.run_folder import RunFolder, config_hash

log = logging.getLogger(__name__)

LEDGER, STATES, LOCK = "ledger.jsonl", "states.jsonl", ".lock"

OWN_NAMES = (LEDGER, STATES, "output", "cluster", "plots", "report.html", "study.journal", "wandb")
"""Names of a sweep's own files and folders, which no job may have."""


@dataclass(frozen=True)
class Job:
    """One point of a sweep.

    Args:
        number: its place in the ledger, from 1.
        words: all words of its command line that choose something.
        label: those of them that differ between the jobs of the sweep.
        digest: hash of its config.
        slug: name of its folder.
        changes: the sections of its config that differ from the sweep's base.
    """

    number: int
    words: tuple[str, ...]
    label: tuple[str, ...]
    digest: str
    slug: str
    changes: dict[str, Any] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return " ".join(self.label) or "the only point"


@dataclass(frozen=True)
class State:
    """What became of a job.

    Args:
        status: ``pending`` (never started), ``running``, ``interrupted``, ``failed``, ``pruned`` or ``finished``.
        metric, mode, value: its monitored metric, the direction of it, and the best value.
        seconds: that it has taken.
        error: the last line of its traceback.
    """

    status: str = "pending"
    metric: str = ""
    mode: str = "min"
    value: float | None = None
    seconds: float = 0.0
    error: str = ""


def _own_folder(name: str) -> str:
    """Return the name of a job's folder, which is one plain component and none of a sweep's own files.

    Raises:
        ValueError: for any other name.
    """
    if not re.fullmatch(r"[\w+][\w.+-]{0,199}", name) or name in OWN_NAMES:
        raise ValueError(f"{name!r} is not the folder of a job")
    return name


class Ledger:
    """The jobs of a sweep on disk. `create` begins one, `open` reads one back; `add` and `save` extend it.

    Args:
        folder: of the sweep.
        head: name, command, code and the base of all configs.
        jobs: in order.
    """

    def __init__(self, folder: Path, head: dict[str, Any], jobs: Iterable[Job] = ()) -> None:
        self.folder = folder
        self.head = head
        self.jobs: list[Job] = list(jobs)
        self._by_digest = {job.digest: job for job in self.jobs}
        self._by_words = {job.words: job for job in self.jobs}
        self._states: dict[str, tuple[int, State]] | None = None

    # ---- on disk -------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, name: str, command: Sequence[str]) -> "Ledger":
        """Begin a ledger; nothing is written before `save`."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            folder, {"version": FORMAT_VERSION, "name": name, "command": list(command), "created": now, "base": {}}
        )

    @classmethod
    def open(cls, folder: Path, remarks: Callable[[str], object] | None = None) -> "Ledger":
        """Read a ledger; a last line that a crash tore is left out.

        Args:
            folder: of the sweep.
            remarks: called with each line that is damaged, which is then left out; without it, a damaged line is an error.

        Raises:
            UserError: if there is none, or if it is damaged or of another version.
        """
        file = folder / LEDGER
        try:
            lines = _lines(folder)
        except OSError as error:
            raise UserError(f"{folder}: there is no ledger of a sweep here ({error.strerror})") from error
        try:
            head = _checked(_Head, lines[0] if lines else b"", f"{file}, line 1")
        except RecordError as error:
            raise UserError(f"{error}\nthis ledger is damaged") from error
        if head.version != FORMAT_VERSION:
            raise UserError(f"{file}: a ledger of version {head.version}; this code reads version {FORMAT_VERSION}")
        jobs: list[Job] = []
        seen: set[object] = set()
        for number, text in enumerate(lines[1:], 2):
            try:
                job = _job(_checked(_JobLine, text, f"{file}, line {number}"))
                if job.number != len(jobs) + 1 or seen & {job.digest, job.slug}:
                    raise RecordError(
                        f"{file}, line {number}: this job is out of order, or another has its folder or hash"
                    )
            except RecordError as error:
                if number == len(lines) and not text.endswith(b"\n"):  # a search appends line by line
                    log.warning("%s: its last line is torn, and is left out", file)
                elif remarks is None:
                    raise UserError(f"{error}\nthis ledger is damaged") from error
                else:
                    remarks(str(error))
                    break
            else:
                seen |= {job.digest, job.slug}
                jobs.append(job)
        return cls(folder, head.model_dump(), jobs)

    def trusted(self, overrides: Sequence[str] = ()) -> "Ledger":
        """Return this ledger after checking that its jobs may run here; see `src.config.trust`.

        Args:
            overrides: of the command line, whose values do not come from the ledger.

        Raises:
            UserError: if a recorded config names a class that is not trusted, or decides what is written or contacted, or if
                a job's folder is a link.
        """
        file = self.folder / LEDGER
        if self.head["base"]:
            self.head["base"] = literal_config(self.head["base"], file, changes=overrides)
        for job in self.jobs:
            if job.changes:
                literal_config(job.changes, Path(f"{file}, job {job.number}"), changes=overrides)
            self.path(job)
        for overrides_of_jobs in (self.head.get("search") or {}).get("words", ()):
            refuse_overrides(overrides_of_jobs, file)
        return self

    @classmethod
    def exists(cls, folder: Path) -> bool:
        return (folder / LEDGER).is_file()

    def save(self) -> None:
        """Write the whole ledger, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_below(self.folder, LEDGER) as file:
            file.write(_line(self.head).encode())
            file.writelines(_job_line(job).encode() for job in self.jobs)

    def append(self, job: Job) -> None:
        """Write one more job down, as a search asks for it."""
        with append_below(self.folder, LEDGER) as file:
            file.write(_job_line(job).encode())
            file.flush()
            os.fsync(file.fileno())

    # ---- jobs ----------------------------------------------------------------------------------------------------

    def find(self, words: Sequence[str]) -> Job | None:
        """Return the job of a command line, if it is in the ledger."""
        return self._by_words.get(tuple(words))

    def with_digest(self, digest: str) -> Job | None:
        """Return the job of a config, if it is in the ledger."""
        return self._by_digest.get(digest)

    def add(self, words: Sequence[str], label: Sequence[str], config: Mapping[str, Any]) -> Job:
        """Enter a job, or give the one with the same config hash these words and this config (which then differ only in
        what has no influence on its result).

        Args:
            words: of its command line.
            label: those that are shown.
            config: resolved and checked.
        """
        if not self.head["base"]:
            self.head["base"] = dict(config)
        base = self.head["base"]
        changes = {key: value for key, value in config.items() if key not in base or value != base[key]}
        digest = config_hash(config)
        known = self._by_digest.get(digest)
        job = Job(
            number=known.number if known else len(self.jobs) + 1,
            words=tuple(words),
            label=tuple(label),
            digest=digest,
            slug=known.slug if known else job_name(label, digest),
            changes=changes,
        )
        if known:
            self.jobs[known.number - 1] = job
            self._by_words.pop(known.words, None)
        else:
            self.jobs.append(job)
        self._by_digest[digest] = self._by_words[job.words] = job
        return job

    def config(self, job: Job) -> dict[str, Any]:
        """Return the frozen config of a job."""
        return {**self.head["base"], **job.changes}

    def path(self, job: Job) -> Path:
        """Return the run folder of a job.

        Raises:
            UserError: if a link stands in its place.
        """
        path = self.folder / job.slug
        if path.is_symlink():
            raise UserError(f"{path}: this is a link; the folder of a job lies within its sweep")
        return path

    # ---- states --------------------------------------------------------------------------------------------------

    def states(self) -> dict[int, State]:
        """Return what became of each job, by number. Only what changed since the last time is read."""
        known = self._known_states()
        try:
            present = {entry.name for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False)}
        except OSError:
            present = set()
        found, fresh = {}, []
        for job in self.jobs:
            state, line = self._state(job, known) if job.slug in present else (State(), None)
            found[job.number] = state
            if line is not None:
                fresh.append(line)
        if fresh:
            self._note(fresh)
        return found

    def refresh(self, job: Job) -> State:
        """Return what became of one job, and note it."""
        state, line = self._state(job, self._known_states())
        if line is not None:
            self._note([line])
        return state

    def _state(self, job: Job, known: dict[str, tuple[int, State]]) -> tuple[State, str | None]:
        """Return a job's state, and a line for states.jsonl where that does not have it yet."""
        file = self.path(job) / "run.json"
        try:
            written = file.stat().st_mtime_ns
        except OSError:
            return State(), None
        if job.slug in known and known[job.slug][0] == written:
            return known[job.slug][1], None
        folder = RunFolder.open(self.path(job))
        state = _state_of(folder.record)
        if state.status == "running":
            return (state if folder.alive else _state_of(folder.record | {"status": "interrupted"})), None
        known[job.slug] = written, state
        return state, _line({"job": job.slug, "written": written, **vars(state)})

    def _known_states(self) -> dict[str, tuple[int, State]]:
        """Return what states.jsonl says: a cache, of which whatever is damaged is left out and found anew."""
        if self._states is None:
            self._states = {}
            with suppress(OSError, UserError), open_below(self.folder, STATES) as file:
                for line in lines_of(file, self.folder / STATES):
                    with suppress(UserError):
                        entry = _checked(_StateLine, line, STATES)
                        self._states[entry.job] = entry.written, State(**entry.model_dump(exclude={"job", "written"}))
        return self._states

    def _note(self, lines: Sequence[str]) -> None:
        try:
            with append_below(self.folder, STATES) as file:
                file.write("".join(lines).encode())
        except IsADirectoryError:
            log.debug("%s: this is a folder, so no states are kept", self.folder / STATES)
        except UserError:
            with suppress(OSError):
                remove_below(self.folder, STATES)  # a link or a pipe, and not followed

    # ---- the code ------------------------------------------------------------------------------------------------

    def code_changed(self) -> str | None:
        """Say how the code differs from that which the sweep began with; None where it does not."""
        now = code_state()
        before = self.head.setdefault("code", now)
        if before is None or now is None or before == now:
            return None
        if before["revision"] != now["revision"]:
            return f"the code is now at revision {now['revision'][:9]}, the sweep began at {before['revision'][:9]}"
        return f"files were changed since the sweep began (revision {now['revision'][:9]}, see git diff)"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process from working on the same sweep; the system lets go even if this one is killed.

    Args:
        folder: of the sweep; it is made, and removed again if no ledger was written.

    Raises:
        UserError: if the sweep is running already.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with append_below(folder, LOCK) as handle:
            _lock(handle.fileno(), folder)
            yield
    finally:
        if not Ledger.exists(folder):
            with suppress(OSError):
                remove_below(folder, LOCK)
                for path in made:
                    path.rmdir()


def _lock(handle: int, folder: Path) -> None:
    try:
        import fcntl

        for _ in range(20):  # a driver that was just killed needs a moment to let go
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.1)
    except (ImportError, OSError) as error:
        log.debug("%s: no lock: %s", folder, error)  # some systems and network file systems have none
        return
    raise UserError(f"{folder}: this sweep is running already")


def code_state() -> dict[str, str] | None:
    """Return the revision of the code, and a hash of what was changed since; None outside a repository."""
    state = git_state()
    if state is None:
        return None
    changed = hashlib.sha256("\n".join([state["diff"], *state["untracked"]]).encode()).hexdigest()[:12]
    return {"revision": state["revision"], "changed": changed}


def _state_of(record: Mapping[str, Any]) -> State:
    error = str(record.get("error") or "").strip().splitlines()
    return State(
        status=str(record.get("status", "unknown")),
        metric=record.get("monitor") or "",
        mode=record.get("mode") or "min",
        value=record.get("value"),
        seconds=record.get("seconds") or 0.0,
        error=error[-1] if error else "",
    )


class _Search(BaseModel, extra="forbid"):
    """What the last command asked of a search: checked settings, and the overrides that its jobs share or vary."""

    settings: dict[str, Any]
    words: list[list[str]]


class _Head(BaseModel, extra="forbid"):
    """The first line of a ledger."""

    version: int
    name: str
    command: list[str]
    created: str
    base: dict[str, Any]
    code: dict[str, str] | None = None
    search: _Search | None = None


class _JobLine(BaseModel, extra="forbid"):
    """A further line of a ledger."""

    number: PositiveInt
    words: tuple[str, ...]
    label: tuple[str, ...]
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    folder: Annotated[str, AfterValidator(_own_folder)]
    changes: dict[str, Any]


class _StateLine(BaseModel, extra="forbid"):
    """A line of states.jsonl."""

    job: str
    written: int
    status: Literal["running", "interrupted", "failed", "pruned", "finished", "unknown"]
    metric: str
    mode: Literal["min", "max"]
    value: FiniteFloat | None
    seconds: Annotated[FiniteFloat, Field(ge=0)]
    error: str


M = TypeVar("M", bound=BaseModel)


def _lines(folder: Path) -> list[bytes]:
    with open_below(folder, LEDGER) as file:
        return list(lines_of(file, folder / LEDGER))


def _checked(kind: type[M], text: bytes, name: object) -> M:
    """Return a line of a record by its schema.

    Raises:
        RecordError: if it is no JSON, or has other keys or types.
    """
    try:
        return kind.model_validate(parse_json(text, name))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "this line"
        raise RecordError(f"{name}: {key}: {first['msg']}") from error


def _job(line: _JobLine) -> Job:
    return Job(line.number, line.words, line.label, line.hash, line.folder, line.changes)


def _job_line(job: Job) -> str:
    return _line(
        {
            "number": job.number,
            "words": job.words,
            "label": job.label,
            "hash": job.digest,
            "folder": job.slug,
            "changes": job.changes,
        }
    )


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"
