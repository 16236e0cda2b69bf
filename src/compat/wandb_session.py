"""Copy a W&B session for ``wandb sync``, which replays it.

A session is a folder with a transaction log (``run-<id>.wandb``), which is replayed as if the run logged it again: records
name files to upload, an entity, a project, and TensorBoard folders to read. The log of a run folder may come from someone else.
So the client gets a copy, in a folder that only this process writes: it contains regular files only, and a log of records
that refer to nothing outside of the copy. A session with any other record is refused.

The log is a LevelDB log with CRC-32 checksums, whose records are messages of ``wandb.proto``, which is private to wandb (0.31
here). Without it every session is refused.
"""

import logging
import os
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

from src.core.files import UnsafeFileError, open_below, read_below
from src.core.wandb_account import Account

log = logging.getLogger(__name__)

MAX_SESSION_BYTES = 8 * 2**30
"""Maximum size of a log, and of the other files of a session, in bytes."""

MAX_SESSION_RECORD_BYTES = 64 * 2**20
MAX_RECORDS = 50_000_000

_HEADER = b":W&B\xe1\xbe\x00"
_BLOCK = 32 * 2**10
_CHUNK = struct.Struct("<IHB")
_CHECKSUMS = {kind: zlib.crc32(bytes([kind])) for kind in (1, 2, 3, 4)}

_HARMLESS = frozenset(
    (
        *("header", "footer", "config", "summary", "history", "stats", "telemetry", "metric", "environment", "exit"),
        *("final", "output", "output_raw", "output_logger", "preempting"),
    )
)
"""Records that contain values only. ``run``, ``files`` and ``artifact`` are checked; all others are refused."""


class CopiedSession(NamedTuple):
    """A copy that the client may upload.

    Args:
        log: the copied log.
        has_run: the log has a record of the run, without which there is nothing to upload.
        complete: nothing is left out. Left out are the end of the log, if the process was killed while it wrote a record, and
            files that are neither in the run folder nor in the client's own folder.
    """

    log: Path
    has_run: bool
    complete: bool


def copy_session(session: Path, run_folder: Path, target: Path, account: Account) -> CopiedSession:
    """Copy a session.

    Args:
        session: the ``.wandb`` file, in a folder of ``run_folder/wandb``.
        run_folder: the folder from which files may be uploaded.
        target: a new folder, which this function makes.
        account: where the session may be uploaded.

    Raises:
        UnsafeFileError: if the session names files outside of the run folder, belongs to another account or run, has records
            that may not be replayed, or cannot be checked.
        OSError: if it cannot be read, or the copy cannot be written.
    """
    try:
        from wandb.proto import wandb_internal_pb2

        parse = getattr(wandb_internal_pb2, "Record").FromString  # noqa: B009 - defined at import time
    except Exception as error:
        raise UnsafeFileError(
            f"{session}: this version of wandb has no reader of sessions, so the session is not checked"
        ) from error
    copier = _Copier(session, run_folder, target, account)
    target.mkdir(parents=True)
    file = target / session.name
    with open_below(run_folder, session.relative_to(run_folder)) as source, file.open("xb") as copy:
        if os.fstat(source.fileno()).st_size > MAX_SESSION_BYTES:
            raise UnsafeFileError(f"{session}: this session has more than {MAX_SESSION_BYTES / 2**30:.0f} GiB")
        has_run, complete = copier.copy_records(source, copy, parse)
    complete &= copier.copy_files()
    return CopiedSession(file, has_run, complete)


class _Copier:
    def __init__(self, session: Path, run_folder: Path, target: Path, account: Account) -> None:
        self._id = session.stem.removeprefix("run-")
        self._session = session
        self._run_folder = run_folder
        self._target = target
        self._account = account
        self._size = 0
        self._artifact_files = 0
        self._has_warned = False

    def copy_records(self, source: BinaryIO, copy: BinaryIO, parse: Callable[[bytes], Any]) -> tuple[bool, bool]:
        """Write a log of the records that may be sent; return whether it has a run, and whether it is complete."""
        has_run, complete = False, True
        copy.write(_HEADER)
        try:
            for number, data in enumerate(_records(source, self._session)):
                if number >= MAX_RECORDS:
                    raise UnsafeFileError(f"{self._session}: this session has more than {MAX_RECORDS:,} records")
                try:
                    record = parse(data)
                    kind = record.WhichOneof("record_type")
                except Exception as error:
                    raise UnsafeFileError(f"{self._session}: record {number} is damaged") from error
                if kind not in _HARMLESS and (reason := self._refusal(kind, record)):
                    raise UnsafeFileError(f"{self._session}: not sent, because {reason}")
                if kind == "artifact" and not self._copy_artifact(record.artifact):
                    complete = False
                    continue
                has_run |= kind == "run"
                _write_record(copy, record.SerializeToString())
        except EOFError:
            log.info("%s: it ends within a record; the missing values are taken from the run folder", self._session)
            complete = False
        return has_run, complete

    def _refusal(self, kind: str | None, record: Any) -> str | None:
        """Return why a record is refused; None if it is not."""
        if kind == "run":
            run = record.run
            if run.run_id != self._id:
                return f"it belongs to another W&B run, {run.run_id[:80]!r}"
            if run.storage_id or run.forked or run.HasField("branch_point"):
                return "it changes another W&B run, or an earlier part of its own"
            if any(unicodedata.category(letter) == "Cc" for letter in run.display_name):
                return "its name has control characters"  # `src.loggers.wandb.sync` reads lines of the client that contain it
            return self._account.refusal(run.entity, run.project)
        if kind == "files":
            return next((reason for item in record.files.files if (reason := _bad_file(item.path))), None)
        if kind == "artifact":
            artifact = record.artifact
            if artifact.run_id not in ("", self._id):
                return f"an artifact belongs to another W&B run, {artifact.run_id[:80]!r}"
            if artifact.manifest.manifest_file_path:
                return "an artifact has its list of files elsewhere"
            if reference := next((entry.ref for entry in artifact.manifest.contents if entry.ref), None):
                return f"an artifact refers to {reference[:200]!r}"
            return self._account.refusal(artifact.entity, artifact.project)
        return f"it contains a record of the kind {kind!r}, which is not replayed"

    def _copy_artifact(self, artifact: Any) -> bool:
        """Replace the files of an artifact that are in the run folder by copies; return whether all files can be sent.

        The client has copied most files to its own folder, where it removes them after the upload.
        """
        for entry in artifact.manifest.contents:
            if not entry.local_path or _is_staged(entry.local_path):
                continue
            copy = self._target / "artifacts" / str(self._artifact_files)
            self._artifact_files += 1
            if not self._copy_file(entry.local_path, copy):
                return False
            entry.local_path = str(copy)
        return True

    def copy_files(self) -> bool:
        """Copy the other files of the session, following links within the run folder; return whether all could be copied."""
        folder = self._session.parent
        state, text = f"{self._session.name}.syncstate", b""  # has the step at which the session begins on the server
        with suppress(FileNotFoundError):
            text = read_below(self._run_folder, (folder / state).relative_to(self._run_folder), 1000)
        (self._target / state).write_bytes(text)
        complete = True
        for parent, _, names in os.walk(folder / "files"):
            for name in names:
                path = os.path.join(parent, name)
                copy = self._target / os.path.relpath(path, folder)
                source = os.path.join(parent, os.readlink(path)) if os.path.islink(path) else path
                complete &= self._copy_file(source, copy)
        return complete

    def _copy_file(self, path: str, copy: Path) -> bool:
        """Copy a file; return False if its path is not below the run folder, or if it does not exist."""
        relative_path = _relative_path(self._run_folder, path)
        if relative_path is None:
            if not self._has_warned:
                log.warning("%s: files outside of the run folder are left out: %.200r", self._session, path)
            self._has_warned = True
            return False
        try:
            file = open_below(self._run_folder, relative_path)
        except FileNotFoundError:
            return False
        with file:
            self._size += os.fstat(file.fileno()).st_size
            if self._size > MAX_SESSION_BYTES:
                raise UnsafeFileError(
                    f"{self._session}: its files have more than {MAX_SESSION_BYTES / 2**30:.0f} GiB together"
                )
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("xb") as target:
                shutil.copyfileobj(file, target)
        return True


def _bad_file(name: str) -> str | None:
    """Return why a file to upload is refused. Its name is relative to the folder ``files`` of the session, and may be a glob."""
    path = PurePath(name)
    if not name or "\0" in name or "\\" in name or path.is_absolute() or ".." in path.parts:
        return f"the file {name[:200]!r} is outside of the session"
    return None


def _is_staged(name: str) -> bool:
    """Return whether a file of an artifact is a copy that the client made in its own folder, or was one."""
    from wandb.env import get_data_dir

    folder = os.path.join(os.path.abspath(os.path.expanduser(get_data_dir())), "artifacts", "staging")
    parent, file = os.path.split(name)
    return parent == folder and file not in ("", ".", "..") and "\0" not in file and not os.path.islink(name)


def _relative_path(folder: Path, path: str) -> PurePath | None:
    """Return a path relative to a folder; None if it is not below the folder. Links are not resolved: `open_below` refuses
    them.
    """
    path = os.path.normpath(path)
    for root in (str(folder), os.path.realpath(folder)):
        if path.startswith(root + os.sep) and "\0" not in path:
            return PurePath(path[len(root) + 1 :])
    return None


def _records(file: BinaryIO, session: Path) -> Iterator[bytes]:
    """Yield the records of a log.

    Raises:
        EOFError: if the log ends within a record.
        UnsafeFileError: if it is damaged.
    """
    damaged = UnsafeFileError(f"{session}: this is not a session of wandb 0.31, or it is damaged")
    if (head := file.read(_BLOCK))[: len(_HEADER)] != _HEADER:
        if _HEADER.startswith(head):
            raise EOFError
        raise damaged
    block, position = head, len(_HEADER)
    parts: list[bytes] = []
    size = 0
    while block:
        while len(block) - position >= _CHUNK.size:
            checksum, length, kind = _CHUNK.unpack_from(block, position)
            if kind == 0 and not any(block[position:]):  # power was lost before the end was on the disk
                raise EOFError
            position += _CHUNK.size
            if position + length > _BLOCK or kind not in _CHECKSUMS or (kind in (1, 2)) != (not parts):
                raise damaged
            if position + length > len(block):
                raise EOFError
            data = block[position : position + length]
            if zlib.crc32(data, _CHECKSUMS[kind]) != checksum:
                raise damaged
            position += length
            if (size := size + length) > MAX_SESSION_RECORD_BYTES:
                raise UnsafeFileError(f"{session}: a record has more than {MAX_SESSION_RECORD_BYTES / 2**20:.0f} MiB")
            parts.append(data)
            if kind in (1, 4):
                yield parts[0] if kind == 1 else b"".join(parts)
                parts, size = [], 0
        if len(block) < _BLOCK:
            if parts or position < len(block):
                raise EOFError
            return
        block, position = file.read(_BLOCK), 0
    if parts:
        raise EOFError


def _write_record(log: BinaryIO, record: bytes) -> None:
    """Append a record to a log, as one chunk in each block that it spans."""
    kind, remaining = "first", memoryview(record)
    while kind != "done":
        room = _BLOCK - log.tell() % _BLOCK
        if room < _CHUNK.size:
            log.write(bytes(room))
            continue
        part, remaining = remaining[: room - _CHUNK.size], remaining[room - _CHUNK.size :]
        number = {("first", True): 1, ("first", False): 2, ("next", False): 3, ("next", True): 4}[kind, not remaining]
        log.write(_CHUNK.pack(zlib.crc32(part, _CHECKSUMS[number]), len(part), number))
        log.write(part)
        kind = "next" if remaining else "done"
