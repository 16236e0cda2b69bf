"""Checking a W&B session before ``wandb sync`` replays it.

A session is a folder with a transaction log (``run-<id>.wandb``), which is replayed as if the run logged it again: records
name files to upload, an entity, and TensorBoard folders to read. The log of a run folder may come from someone else, so only
records that cannot reach beyond the run folder are let through, and everything unknown is refused.

The log is a LevelDB log with CRC-32 checksums, whose records are messages of ``wandb.proto``, which is private to wandb (0.31
here). Without it every session is refused.
"""

import os
import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from src.core.files import UnsafeFileError, open_below

MAX_SESSION_BYTES = 8 * 2**30
MAX_RECORD_BYTES = 64 * 2**20
MAX_RECORDS = 50_000_000

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
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
"""Records that only carry values. ``run``, ``files`` and ``artifact`` are checked, and all others are refused."""

_LINK_TO_CACHE = "logs/debug-core.log"
"""The client makes this link to its own log, and never opens it."""

_COPY_OF_PREDICTIONS = "files/answers.json"
"""An absolute link of earlier versions, which points nowhere after the run folder was moved."""


def valid_run_id(value: object) -> bool:
    """Return whether a value can be the id of a W&B run: it is part of file names and addresses."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def check_session(session: Path, run_folder: Path, entities: Collection[str]) -> None:
    """Raise an error unless a session can be handed to ``wandb sync``.

    Args:
        session: the ``.wandb`` file, in a folder of ``run_folder/wandb``.
        run_folder: the folder from which files may be uploaded.
        entities: the entities of the user.

    Raises:
        UnsafeFileError: if the session refers to something outside of the run folder, contains a link that leaves it, names
            another entity, or cannot be checked.
        OSError: if it cannot be read.
    """
    if not valid_run_id(session.stem.removeprefix("run-")):
        raise UnsafeFileError(f"{session}: this is not the name of a W&B session")
    _check_links(session.parent, run_folder)
    try:
        from wandb.proto import wandb_internal_pb2

        parse = getattr(wandb_internal_pb2, "Record").FromString  # noqa: B009 - made when it is imported
    except Exception as error:
        raise UnsafeFileError(
            f"{session}: this version of wandb has no reader, so the session is not checked"
        ) from error
    with open_below(run_folder, session.relative_to(run_folder)) as file:
        if os.fstat(file.fileno()).st_size > MAX_SESSION_BYTES:
            raise UnsafeFileError(f"{session}: this session has more than {MAX_SESSION_BYTES / 2**30:.0f} GiB")
        for number, data in enumerate(_records(file, session)):
            if number >= MAX_RECORDS:
                raise UnsafeFileError(f"{session}: this session has more than {MAX_RECORDS:,} records")
            try:
                record = parse(data)
                kind = record.WhichOneof("record_type")
            except Exception as error:
                raise UnsafeFileError(f"{session}: record {number} is damaged") from error
            if kind not in _HARMLESS and (reason := _refusal(kind, record, session, run_folder, entities)):
                raise UnsafeFileError(f"{session}: not sent, because {reason}")


def _refusal(kind: str | None, record: Any, session: Path, run_folder: Path, entities: Collection[str]) -> str | None:
    """Return why a record is refused; None if it is not."""
    if kind == "run":
        run = record.run
        if run.run_id != session.stem.removeprefix("run-"):
            return f"it belongs to another W&B run, {run.run_id[:80]!r}"
        if any(unicodedata.category(letter) == "Cc" for letter in run.display_name):
            return (
                "its name has control characters"  # `src.loggers.wandb.sync` reads lines of the client that contain it
            )
        if run.HasField("branch_point"):
            return "it is a fork or a rewind of another W&B run"
        return _foreign(run.entity, entities)
    if kind == "files":
        return next(
            (reason for item in record.files.files if (reason := _bad_file(item.path, session, run_folder))), None
        )
    if kind == "artifact":
        artifact = record.artifact
        if artifact.run_id not in ("", session.stem.removeprefix("run-")):
            return f"an artifact belongs to another W&B run, {artifact.run_id[:80]!r}"
        if artifact.manifest.manifest_file_path:
            return "an artifact has its list of files elsewhere"
        for entry in artifact.manifest.contents:
            if entry.ref:
                return f"an artifact refers to {entry.ref[:200]!r}"
            if entry.local_path and not _is_own_copy(entry.local_path, run_folder):
                return f"an artifact contains {entry.local_path[:200]!r}, which is outside of the run folder"
        return _foreign(artifact.entity, entities)
    return f"it contains a record of the kind {kind!r}, which is not replayed"


def _foreign(entity: str, entities: Collection[str]) -> str | None:
    if not entity or entity in entities:
        return None
    return f"its entity {entity[:80]!r} is not yours. Set WANDB_ENTITY={entity[:80]!r} if it is"


def _bad_file(name: str, session: Path, run_folder: Path) -> str | None:
    """Return why a file to upload is refused. Its name is relative to the folder ``files`` of the session, and may be a glob."""
    path = PurePath(name)
    if not name or "\0" in name or "\\" in name or path.is_absolute() or ".." in path.parts:
        return f"the file {name[:200]!r} is outside of the session"
    return None if _is_inside(session.parent / "files" / path, run_folder) else f"{name[:200]!r} leaves the run folder"


def _is_inside(path: Path, folder: Path) -> bool:
    inside = os.path.realpath(folder)
    target = os.path.realpath(path)
    return target.startswith(inside + os.sep) or not os.path.lexists(target)


def _is_own_copy(name: str, run_folder: Path) -> bool:
    """Return whether a file of an artifact is in the run folder, or a copy that the client made for an artifact."""
    from wandb.env import get_data_dir

    if "\0" in name or not os.path.isabs(name):
        return False
    target = os.path.realpath(name)
    staging = os.path.realpath(os.path.join(os.path.expanduser(get_data_dir()), "artifacts", "staging"))
    places = (os.path.realpath(run_folder), staging)
    if not any(target.startswith(place + os.sep) for place in places):
        return False
    try:
        return stat.S_ISREG(os.stat(target, follow_symlinks=False).st_mode)
    except OSError:
        return True  # it is gone, so nothing is sent


def _check_links(folder: Path, run_folder: Path) -> None:
    """Refuse links that leave a run folder, and what is neither a file nor a folder, in the folder of a session.

    The client also writes there. A link to nothing is refused because writing would make its target.
    """
    if any(place.is_symlink() for place in (folder, folder.parent)):
        raise UnsafeFileError(f"{folder}: this is a link, and links are not followed here")
    inside = os.path.realpath(run_folder) + os.sep
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_symlink():
                    name = os.path.relpath(entry.path, folder).replace(os.sep, "/")
                    target = os.path.realpath(entry.path)
                    moved = name == _COPY_OF_PREDICTIONS and not os.path.lexists(target)
                    if not (name == _LINK_TO_CACHE or target.startswith(inside) or moved):
                        raise UnsafeFileError(f"{entry.path}: this link points out of the run folder")
                    if target.startswith(inside) and os.path.exists(target) and not os.path.isfile(target):
                        raise UnsafeFileError(f"{entry.path}: this link does not point to a regular file")
                elif not entry.is_file(follow_symlinks=False):
                    raise UnsafeFileError(f"{entry.path}: this is not a regular file")


def _records(file: BinaryIO, session: Path) -> Iterator[bytes]:
    """Yield the records of a log. A log whose end is missing ends there; any other damage is an error, as the client might
    go on behind it.
    """
    damaged = UnsafeFileError(f"{session}: this is not a session of wandb 0.31, or it is damaged")
    if (head := file.read(_BLOCK))[: len(_HEADER)] != _HEADER:
        if not head or _HEADER.startswith(head):
            return
        raise damaged
    block, position = head, len(_HEADER)
    parts: list[bytes] = []
    size = 0
    while block:
        while len(block) - position >= _CHUNK.size:
            checksum, length, kind = _CHUNK.unpack_from(block, position)
            position += _CHUNK.size
            if position + length > _BLOCK or kind not in _CHECKSUMS or (kind in (1, 2)) != (not parts):
                raise damaged
            if position + length > len(block):
                return
            data = block[position : position + length]
            if zlib.crc32(data, _CHECKSUMS[kind]) != checksum:
                raise damaged
            position += length
            if (size := size + length) > MAX_RECORD_BYTES:
                raise UnsafeFileError(f"{session}: a record has more than {MAX_RECORD_BYTES / 2**20:.0f} MiB")
            parts.append(data)
            if kind in (1, 4):
                yield parts[0] if kind == 1 else b"".join(parts)
                parts, size = [], 0
        if len(block) < _BLOCK:
            return
        block, position = file.read(_BLOCK), 0
