"""Files in folders that may come from someone else.

A run folder, a sweep, or a data set can hold anything: a link to a private file, a named pipe that never ends, a file of a
terabyte. The functions below reach a file from a trusted root folder, component by component, and never through a link; they
open regular files only; and they read at most a given number of bytes. On POSIX the checks hold even when the folder changes
meanwhile, because each component is opened relative to the one before it (``openat`` with ``O_NOFOLLOW``).

The root itself is the folder that the user named, so it may be reached through links.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import BinaryIO

from src.core.errors import UserError

MAX_RECORD_BYTES = 16 * 2**20
"""The largest record (run.json, config.yaml, one line of a ledger) that is read, in bytes."""

_ANCHORED = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NO_FILES = ("", ".", "..")


class UnsafeFileError(UserError):
    """A file is not what it must be: it is a link, is not a regular file, or is too large."""


def _link_error(path: Path) -> UnsafeFileError:
    return UnsafeFileError(f"{path}: this is a link, and links are not followed here. Replace it by what it points to")


def plain_name(name: object, kind: str = "a file name") -> str:
    """Return a name that is one plain path component.

    Args:
        name: a value from a record.
        kind: what the name is, for the error.

    Raises:
        UnsafeFileError: if it is empty, ``.`` or ``..``, or contains a separator, a drive, or a control character.
    """
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or len(name) > 255
        or any(mark in name for mark in "/\\:")
        or any(ord(character) < 32 or ord(character) == 127 for character in name)
    ):
        raise UnsafeFileError(f"{str(name)[:80]!r} is not {kind}: it must be one path component, without separators")
    return name


def _parts(name: str | PurePath) -> list[str]:
    """Return the components of a path below a folder; raise `UnsafeFileError` if it leaves the folder."""
    parts = PurePath(name).parts
    if not parts or PurePath(name).is_absolute() or any(part in ("..", "") for part in parts):
        raise UnsafeFileError(f"{name}: this path leaves its folder")
    return list(parts)


@contextmanager
def _parent_of(root: Path, name: str | PurePath, make: bool = False) -> Iterator[tuple[int | None, str]]:
    """Yield a descriptor of the folder that holds a file, and the file's last component.

    Args:
        root: the trusted folder.
        name: a path below it.
        make: create missing folders on the way.
    """
    *folders, last = _parts(name)
    if not _ANCHORED:
        place = root
        for folder in folders:
            place = place / folder
            if place.is_symlink():
                raise _link_error(place)
            if make:
                place.mkdir(exist_ok=True)
        if (place / last).is_symlink():
            raise _link_error(place / last)
        yield None, str(place / last)
        return
    descriptor = os.open(root, os.O_RDONLY | _DIRECTORY | _BINARY)
    try:
        place = root
        for folder in folders:
            place = place / folder
            if make:
                with suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=descriptor)
            try:
                below = os.open(folder, os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _BINARY, dir_fd=descriptor)
            except OSError as error:
                found = _explained(error, place, descriptor, folder)
                if make and isinstance(found, NotADirectoryError):
                    found = UnsafeFileError(f"{place}: this is not a folder, and a folder is expected here")
                raise found from error
            os.close(descriptor)
            descriptor = below
        place = place / last
        yield descriptor, last
    except OSError as error:
        error.filename = str(place)  # and not the component alone
        raise
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path, descriptor: int | None, name: str) -> OSError | UnsafeFileError:
    """Return the error to raise when a component could not be opened; a link is named as such."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
        with suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                return _link_error(path)
    if error.errno == errno.ENXIO:
        return UnsafeFileError(f"{path}: this is not a regular file")
    return error


def _is_last(name: str | PurePath) -> bool:
    """Return whether a name is one component, which needs no open folder: `O_NOFOLLOW` is about the last component of a
    path, and those before it are the root's, which may be links.
    """
    return _ANCHORED and isinstance(name, str) and name not in _NO_FILES and "/" not in name


def _open(root: Path, name: str | PurePath, flags: int, make: bool = False) -> int:
    flags |= _NOFOLLOW | _NONBLOCK | _BINARY
    if _is_last(name) and not make:
        path = os.path.join(root, name)
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise _explained(error, Path(path), None, path) from error
    else:
        path = str(root / name)
        with _parent_of(root, name, make) as (parent, last):
            try:
                descriptor = os.open(last, flags, 0o666, dir_fd=parent)
            except OSError as error:
                raise _explained(error, Path(path), parent, last) from error
    return _regular(descriptor, path)


def _regular(descriptor: int, path: str | Path) -> int:
    """Return a descriptor that was opened; close it and raise an error if it is not that of a regular file."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise UnsafeFileError(f"{path}: this is not a regular file")


def _bounded(file: BinaryIO, limit: int, path: Path) -> bytes:
    """Return the contents of a file, and close it.

    Raises:
        UnsafeFileError: if it has more than `limit` bytes.
    """
    with file:
        if os.fstat(file.fileno()).st_size <= limit and len(contents := file.read(limit + 1)) <= limit:
            return contents
    raise UnsafeFileError(f"{path}: this file has more than {limit / 2**20:,.0f} MiB, the most that is read")


def open_below(root: Path, name: str | PurePath) -> BinaryIO:
    """Open a file for reading.

    Args:
        root: the folder that the user named.
        name: a path below it, from which no component may be a link.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if a component is a link, or if it is not a regular file.
    """
    return os.fdopen(_open(root, name, os.O_RDONLY), "rb")


def open_data_file(path: Path) -> BinaryIO:
    """Open a file of data for reading; the path may be reached through links, which only `open_below` refuses.

    Args:
        path: that the user named, or that lies in a folder of data.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is a pipe, a device, or a socket.
    """
    return os.fdopen(_regular(os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY), path), "rb")


def open_text_file(path: Path) -> BinaryIO:
    """Open a text file for reading; see `open_data_file`.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is not a regular file, or begins with bytes that no text holds.
    """
    file = open_data_file(path)
    if b"\0" in file.read(1 << 16):
        file.close()
        raise UnsafeFileError(f"{path}: this is not a text file: it contains NUL bytes")
    file.seek(0)
    return file


def read_data_file(path: Path, limit: int) -> bytes:
    """Return the contents of a file of data; see `open_data_file`.

    Args:
        path: as in `open_data_file`.
        limit: the largest number of bytes.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is larger, or not a regular file.
    """
    return _bounded(open_data_file(path), limit, path)


def read_below(root: Path, name: str | PurePath, limit: int = MAX_RECORD_BYTES) -> bytes:
    """Return the contents of a file; see `open_below`.

    Args:
        root, name: as in `open_below`.
        limit: the largest number of bytes.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is larger, a link, or not a regular file.
    """
    descriptor = _open(root, name, os.O_RDONLY)
    try:
        parts = []
        left = limit + 1 if os.fstat(descriptor).st_size <= limit else 0
        while left > 0 and (part := os.read(descriptor, min(left, 1 << 20))):  # a file object would take twice the time
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if left <= 0:
        raise UnsafeFileError(f"{root / name}: this file has more than {limit / 2**20:,.0f} MiB, the most that is read")
    return b"".join(parts)


def is_file_below(root: Path, name: str | PurePath) -> bool:
    """Return whether there is a regular file that `open_below` would open."""
    try:
        if _is_last(name):
            return stat.S_ISREG(os.lstat(os.path.join(root, name)).st_mode)
        with _parent_of(root, name) as (parent, last):
            return stat.S_ISREG(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode)
    except (OSError, UserError):
        return False


def append_below(root: Path, name: str | PurePath) -> BinaryIO:
    """Open a file for appending, and make it if there is none; see `open_below`.

    A file with a second name is copied first, so that appending does not change what the other name shows.

    Raises:
        OSError: if it cannot be opened.
        UnsafeFileError: if a component is a link, or if it is not a regular file.
    """
    descriptor = _open(root, name, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if os.fstat(descriptor).st_nlink == 1:
        return os.fdopen(descriptor, "ab")
    with os.fdopen(descriptor, "rb") as shared, replace_below(root, name) as own:
        shutil.copyfileobj(shared, own)
    return os.fdopen(_open(root, name, os.O_RDWR | os.O_APPEND), "ab")


def create_below(root: Path, name: str | PurePath, make: bool = False) -> BinaryIO:
    """Open a new file for writing and reading; a file or a link of its name is removed first.

    Raises:
        OSError: if it cannot be made.
        UnsafeFileError: if a component on the way is a link.
    """
    with suppress(FileNotFoundError):
        remove_below(root, name)
    return os.fdopen(_open(root, name, os.O_RDWR | os.O_CREAT | os.O_EXCL, make), "w+b")


def sync_below(root: Path, name: str | PurePath) -> None:
    """Wait until a file is on the disk."""
    descriptor = _open(root, name, os.O_RDWR)  # Windows lets no file be flushed that is only read
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_below(root: Path, name: str | PurePath, target: str | PurePath) -> None:
    """Give a file another name in the same folder; a file or a link of that name is replaced, not followed.

    Raises:
        OSError: if it cannot be moved.
        UnsafeFileError: if a component is a link, or if there is a folder of that name.
    """
    with _parent_of_entry(root, name) as (parent, last):
        place = PurePath(target).name if parent is not None else str(root / target)
        try:
            os.replace(last, place, src_dir_fd=parent, dst_dir_fd=parent)
        except IsADirectoryError as error:
            raise UnsafeFileError(f"{root / target}: this is a folder, and a file is expected here") from error


def link_below(root: Path, name: str | PurePath, target: str | PurePath) -> None:
    """Give a regular file a second name in the same folder, which must be new."""
    os.close(_open(root, name, os.O_RDONLY))
    with _parent_of_entry(root, name) as (parent, last):
        place = PurePath(target).name if parent is not None else str(root / target)
        os.link(last, place, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)


def make_folder_below(root: Path, name: str | PurePath) -> Path:
    """Make a folder and its parents below a root, never through a link, and return its path.

    Raises:
        OSError: if it cannot be made.
        UnsafeFileError: if a component is a link, or something else than a folder.
    """
    with _parent_of(root, PurePath(name) / "_", make=True):
        return root / name


def remove_below(root: Path, name: str | PurePath) -> None:
    """Remove a file or a link, not what the link points to; do nothing if there is none.

    Raises:
        OSError: if it cannot be removed.
        UnsafeFileError: if it is a folder, or if a component on the way is a link.
    """
    with suppress(FileNotFoundError), _parent_of_entry(root, name) as (parent, last):
        try:
            os.unlink(last, dir_fd=parent)
        except IsADirectoryError as error:
            raise UnsafeFileError(f"{root / name}: this is a folder, and a file is expected here") from error


@contextmanager
def _parent_of_entry(root: Path, name: str | PurePath) -> Iterator[tuple[int | None, str]]:
    """Like `_parent_of`, but the last component may be a link."""
    if _ANCHORED:
        with _parent_of(root, name) as found:
            yield found
    else:
        with _parent_of(root, PurePath(name).parent / "_"):
            yield None, str(root / name)


@contextmanager
def replace_below(root: Path, name: str | PurePath, make: bool = False) -> Iterator[BinaryIO]:
    """Write a file atomically: it takes its place when all of it is on the disk.

    A link of this name is replaced, not followed.

    Args:
        root, name: as in `open_below`.
        make: create missing folders on the way.

    Raises:
        OSError: if it cannot be written; what was there before is unchanged.
    """
    partial = PurePath(name).with_name(f".{PurePath(name).name[:200]}.{secrets.token_hex(4)}.partial")
    descriptor = _open(root, partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, make)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        move_below(root, partial, name)
    except BaseException:
        with suppress(OSError):
            remove_below(root, partial)
        raise


def write_below(root: Path, name: str | PurePath, contents: bytes | str, make: bool = False) -> None:
    """Write a file atomically; see `replace_below`."""
    with replace_below(root, name, make) as file:
        file.write(contents.encode() if isinstance(contents, str) else contents)


MAX_FOLDER_DEPTH = 64
"""How many levels of folders below a folder are searched. Deeper ones could exceed the recursion limit and the longest path."""


def walk(root: str | os.PathLike[str], strict: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the folders below a folder as ``os.walk`` does, without recursion, and not deeper than `MAX_FOLDER_DEPTH`.

    Links to folders are listed among the folders, and not entered. A folder that cannot be read is left out.

    Args:
        root: the folder.
        strict: refuse deeper folders instead of leaving them out.

    Yields:
        The path of a folder, the names of folders in it, from which the caller may remove some, and all other names.

    Raises:
        UnsafeFileError: if there are deeper folders that may not be left out.
    """
    waiting = [(os.fspath(root), 0)]
    while waiting:
        folder, depth = waiting.pop()
        below: list[str] = []
        others: list[str] = []
        links = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    (below if _is_folder(entry) else others).append(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
        except OSError:
            continue
        yield folder, below, others
        inner = [(os.path.join(folder, name), depth + 1) for name in reversed(below) if name not in links]
        if depth < MAX_FOLDER_DEPTH:
            waiting += inner
        elif inner and strict:
            raise UnsafeFileError(f"{root}: its folders are nested deeper than {MAX_FOLDER_DEPTH} levels")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def links_that_leave(root: Path, allowed: Sequence[str] = ()) -> list[Path]:
    """Return the links below a folder whose target is outside of it.

    Args:
        root: the folder.
        allowed: patterns of the paths, relative to the folder, at which a link to a single file may leave it.

    Raises:
        UnsafeFileError: if its folders are nested too deep to be searched.
    """
    inside = os.path.realpath(root)
    found = []
    for folder, below, files in walk(root, strict=True):
        for name in (*below, *files):
            path = Path(folder, name)
            if path.is_symlink():
                target = os.path.realpath(path)
                leaves = target != inside and not target.startswith(inside + os.sep)
                if leaves and not (_matches(path.relative_to(root), allowed) and not path.is_dir()):
                    found.append(path)
    return found


def _matches(path: PurePath, patterns: Sequence[str]) -> bool:
    """Return whether a relative path matches a pattern of as many components."""
    return any(path.match(pattern) and len(path.parts) == len(PurePath(pattern).parts) for pattern in patterns)


def refuse_links_that_leave(root: Path, purpose: str, allowed: Sequence[str] = ()) -> None:
    """Raise an error if links below a folder leave it.

    This is for code of libraries that writes by path (W&B, CSV loggers); our own code opens files by `open_below` and
    the like, which follow no link at all.

    Args:
        root: the folder.
        purpose: what is refused, such as ``resume``.
        allowed: as in `links_that_leave`.

    Raises:
        UnsafeFileError: if there is such a link; the message names it.
    """
    if found := links_that_leave(root, allowed):
        raise UnsafeFileError(
            f"{found[0]}: this link points out of the folder, so {purpose} is refused. Remove it, or replace it by a copy"
        )


def copy_tree_below(root: Path, target: Path, leave_out: Sequence[str] = ()) -> None:
    """Copy the regular files below a folder; a link, a pipe, or a device among them is an error, as is deep nesting.

    Args:
        root: the folder to copy.
        target: the folder to make.
        leave_out: first components that are not copied; names that begin with a dot never are.

    Raises:
        UnsafeFileError: for anything but regular files and folders, or more than `MAX_FOLDER_DEPTH` folders in each other.
    """
    target.mkdir(parents=True)
    for folder, below, files in walk(root, strict=True):
        place = Path(folder).relative_to(root)
        kept = [name for name in below if not name.startswith(".") and not (place == Path() and name in leave_out)]
        below[:] = sorted(kept)
        for name in kept:
            if os.path.islink(os.path.join(folder, name)):
                raise _link_error(Path(folder, name))
            (target / place / name).mkdir()
        for name in sorted(files):
            if name.startswith(".") or (place == Path() and name in leave_out):
                continue
            with open_below(root, place / name) as source, (target / place / name).open("xb") as copy:
                shutil.copyfileobj(source, copy)
