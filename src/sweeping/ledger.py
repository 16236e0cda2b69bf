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
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.sweeping.naming import job_name
from src.tracking.provenance import git_state
from src.tracking.replacing import replaced
from src.tracking.run_folder import RunFolder, config_hash

log = logging.getLogger(__name__)

LEDGER, STATES = "ledger.jsonl", "states.jsonl"
VERSION = 1


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
        return cls(folder, {"version": VERSION, "name": name, "command": list(command), "created": now, "base": {}})

    @classmethod
    def open(cls, folder: Path) -> "Ledger":
        """Read a ledger; a last line that a crash tore is left out.

        Raises:
            UserError: if there is none, or if it is damaged or of another version.
        """
        file = folder / LEDGER
        try:
            lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # a word may hold other line ends
        except OSError as error:
            raise UserError(f"{folder}: there is no ledger of a sweep here ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: this ledger is damaged: no UTF-8 at byte {error.start}") from error
        try:
            head = dict(json.loads(lines[0]))
            jobs = [_job(json.loads(line)) for line in lines[1:-1]]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"{file}: this ledger is damaged: {error}") from error
        if head.get("version") != VERSION:
            raise UserError(f"{file}: a ledger of version {head.get('version')}; this code reads version {VERSION}")
        try:
            jobs += [_job(json.loads(line)) for line in lines[1:][-1:]]
        except ValueError:  # a search appends line by line
            log.warning("%s: its last line is torn, and is left out", file)
        return cls(folder, head, jobs)

    @classmethod
    def exists(cls, folder: Path) -> bool:
        return (folder / LEDGER).is_file()

    def save(self) -> None:
        """Write the whole ledger, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replaced(self.folder / LEDGER) as partial, partial.open("w", encoding="utf-8") as file:
            file.write(_line(self.head))
            file.writelines(map(_job_line, self.jobs))

    def append(self, job: Job) -> None:
        """Write one more job down, as a search asks for it."""
        with (self.folder / LEDGER).open("a", encoding="utf-8") as file:
            file.write(_job_line(job))
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
        """Return the run folder of a job."""
        return self.folder / job.slug

    # ---- states --------------------------------------------------------------------------------------------------

    def states(self) -> dict[int, State]:
        """Return what became of each job, by number. Only what changed since the last time is read."""
        known = self._known_states()
        try:
            present = {entry.name for entry in os.scandir(self.folder) if entry.is_dir()}
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
        if self._states is None:
            self._states = {}
            with suppress(OSError), (self.folder / STATES).open(encoding="utf-8") as file:
                for line in file:
                    with suppress(ValueError, KeyError, TypeError):
                        entry = json.loads(line)
                        name, written = entry.pop("job"), entry.pop("written")
                        self._states[name] = written, State(**entry)
        return self._states

    def _note(self, lines: Sequence[str]) -> None:
        with (self.folder / STATES).open("a", encoding="utf-8") as file:
            file.writelines(lines)

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
    file = folder / ".lock"
    try:
        with file.open("w") as handle:
            _lock(handle.fileno(), folder)
            yield
    finally:
        if not Ledger.exists(folder):
            with suppress(OSError):
                file.unlink()
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


def _job(entry: Mapping[str, Any]) -> Job:
    return Job(
        entry["number"], tuple(entry["words"]), tuple(entry["label"]), entry["hash"], entry["folder"], entry["changes"]
    )


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
