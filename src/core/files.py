"""Safe access to files in folders that may come from someone else.

A run folder, a sweep, or a data set may contain anything: a link to a private file, a named pipe that never ends, a file of a
terabyte. The functions below open a file from a trusted root folder, component by component, and never through a link; they
open regular files only; and they read at most a given number of bytes. On POSIX the checks are safe against concurrent changes
of the folder, because each component is opened relative to the one before it (``openat`` with ``O_NOFOLLOW``).

The root is the folder that the user named, so its path may contain links.
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
"""Maximum size of a record (run.json, config.yaml, a line of a ledger) in bytes."""

_ANCHORED = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NO_FILES = ("", ".", "..")


class UnsafeFileError(UserError):
    """A file is a link, is not a regular file, or is too large."""


def _link_error(path: Path) -> UnsafeFileError:
    return UnsafeFileError(
        f"{path}: this is a link, and links are not followed here. Replace it by a copy of its target"
    )


def plain_name(name: object, kind: str = "a file name") -> str:
    """Return a name after checking that it is one plain path component.

    Args:
        name: a value from a record.
        kind: description of the name, for the error.

    Raises:
        UnsafeFileError: if it is empty, ``.`` or ``..``, or contains a separator, a drive, or a control character.
    """
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or len(name) > 255
        or any(separator in name for separator in "/\\:")
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
        make: create missing parent folders.
    """
    *folders, last = _parts(name)
    if not _ANCHORED:
        path = root
        for folder in folders:
            path = path / folder
            if path.is_symlink():
                raise _link_error(path)
            if make:
                path.mkdir(exist_ok=True)
        if (path / last).is_symlink():
            raise _link_error(path / last)
        yield None, str(path / last)
        return
    descriptor = os.open(root, os.O_RDONLY | _DIRECTORY | _BINARY)
    try:
        path = root
        for folder in folders:
            path = path / folder
            if make:
                with suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=descriptor)
            try:
                inner = os.open(folder, os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _BINARY, dir_fd=descriptor)
            except OSError as error:
                explained = _explain(error, path, descriptor, folder)
                if make and isinstance(explained, NotADirectoryError):
                    explained = UnsafeFileError(f"{path}: this is not a folder, and a folder is expected here")
                raise explained from error
            os.close(descriptor)
            descriptor = inner
        path = path / last
        yield descriptor, last
    except OSError as error:
        error.filename = str(path)  # the full path instead of the component alone
        raise
    finally:
        os.close(descriptor)


def _explain(
    error: OSError, path: Path, descriptor: int | None, name: str, writing: bool = False
) -> OSError | UnsafeFileError:
    """Return the error to raise when a component could not be opened, with a message that names a link or special file."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
        with suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                return _link_error(path)
    if error.errno == errno.ENXIO:
        return UnsafeFileError(f"{path}: this is not a regular file")
    if writing and error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return UnsafeFileError(f"{path}: cannot be written: {error.strerror}")
    return error


def _is_last(name: str | PurePath) -> bool:
    """Return whether a name is one component, for which opening the parent folder is not necessary: `O_NOFOLLOW` applies to
    the last component of a path, and the others belong to the root, which may contain links.
    """
    return _ANCHORED and isinstance(name, str) and name not in _NO_FILES and "/" not in name


def _open(root: Path, name: str | PurePath, flags: int, make: bool = False) -> int:
    writing = bool(flags & (os.O_WRONLY | os.O_RDWR))
    flags |= _NOFOLLOW | _NONBLOCK | _BINARY
    if _is_last(name) and not make:
        path = os.path.join(root, name)
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise _explain(error, Path(path), None, path, writing) from error
    else:
        path = str(root / name)
        with _parent_of(root, name, make) as (parent, last):
            try:
                descriptor = os.open(last, flags, 0o666, dir_fd=parent)
            except OSError as error:
                raise _explain(error, Path(path), parent, last, writing) from error
    return _check_regular(descriptor, path)


def _check_regular(descriptor: int, path: str | Path) -> int:
    """Return a descriptor if it is that of a regular file; otherwise close it and raise an error."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise UnsafeFileError(f"{path}: this is a folder, and a file is expected here")
    raise UnsafeFileError(f"{path}: this is not a regular file")


def _read_bounded(file: BinaryIO, limit: int, path: Path) -> bytes:
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
        name: a path below it, of which no component may be a link.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if a component is a link, or if it is not a regular file.
    """
    return os.fdopen(_open(root, name, os.O_RDONLY), "rb")


def open_data_file(path: Path) -> BinaryIO:
    """Open a data file for reading. Its path may contain links, which only `open_below` refuses.

    Args:
        path: named by the user, or in a folder of data.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is a pipe, a device, or a socket.
    """
    return os.fdopen(_check_regular(os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY), path), "rb")


def open_text_file(path: Path) -> BinaryIO:
    """Open a text file for reading; see `open_data_file`.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is not a regular file, or contains NUL bytes near its start.
    """
    file = open_data_file(path)
    if b"\0" in file.read(1 << 16):
        file.close()
        raise UnsafeFileError(f"{path}: this is not a text file: it contains NUL bytes")
    file.seek(0)
    return file


def read_data_file(path: Path, limit: int) -> bytes:
    """Return the contents of a data file; see `open_data_file`.

    Args:
        path: as in `open_data_file`.
        limit: maximum size in bytes.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is larger, or not a regular file.
    """
    return _read_bounded(open_data_file(path), limit, path)


def read_below(root: Path, name: str | PurePath, limit: int = MAX_RECORD_BYTES) -> bytes:
    """Return the contents of a file; see `open_below`.

    Args:
        root, name: as in `open_below`.
        limit: maximum size in bytes.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is larger, a link, or not a regular file.
    """
    descriptor = _open(root, name, os.O_RDONLY)
    try:
        parts = []
        remaining = limit + 1 if os.fstat(descriptor).st_size <= limit else 0
        while remaining > 0 and (
            part := os.read(descriptor, min(remaining, 1 << 20))
        ):  # twice as fast as a file object
            parts.append(part)
            remaining -= len(part)
    finally:
        os.close(descriptor)
    if remaining <= 0:
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
    """Open a file for appending, and create it if it does not exist; see `open_below`.

    A file with a second hard link is copied first, so that appending does not change the contents under the other name.

    Raises:
        OSError: if it cannot be opened.
        UnsafeFileError: if a component is a link, or if it is not a regular file.
    """
    descriptor = _open(root, name, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if os.fstat(descriptor).st_nlink == 1:
        return os.fdopen(descriptor, "ab")
    with os.fdopen(descriptor, "rb") as shared, replace_below(root, name) as copy:
        shutil.copyfileobj(shared, copy)
    return os.fdopen(_open(root, name, os.O_RDWR | os.O_APPEND), "ab")


def create_below(root: Path, name: str | PurePath, make: bool = False) -> BinaryIO:
    """Open a new file for writing and reading, after removing a file or a link of its name.

    Raises:
        OSError: if it cannot be created.
        UnsafeFileError: if a parent folder is a link.
    """
    with suppress(FileNotFoundError):
        remove_below(root, name)
    return os.fdopen(_open(root, name, os.O_RDWR | os.O_CREAT | os.O_EXCL, make), "w+b")


def sync_below(root: Path, name: str | PurePath) -> None:
    """Wait until a file is on the disk."""
    descriptor = _open(root, name, os.O_RDWR)  # Windows cannot flush a file that is open for reading only
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_below(root: Path, name: str | PurePath, target: str | PurePath) -> None:
    """Rename a file within its folder. A file or a link of the new name is replaced; the link is not followed.

    Raises:
        OSError: if it cannot be moved.
        UnsafeFileError: if a component is a link, or if there is a folder of the new name.
    """
    with _parent_of_entry(root, name) as (parent, last):
        new_path = PurePath(target).name if parent is not None else str(root / target)
        try:
            os.replace(last, new_path, src_dir_fd=parent, dst_dir_fd=parent)
        except IsADirectoryError as error:
            raise UnsafeFileError(f"{root / target}: this is a folder, and a file is expected here") from error


def link_below(root: Path, name: str | PurePath, target: str | PurePath) -> None:
    """Create a hard link to a regular file in the same folder; the new name must not exist."""
    os.close(_open(root, name, os.O_RDONLY))
    with _parent_of_entry(root, name) as (parent, last):
        new_path = PurePath(target).name if parent is not None else str(root / target)
        os.link(last, new_path, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)


def make_folder_below(root: Path, name: str | PurePath) -> Path:
    """Make a folder and its parents below a root, never through a link, and return its path.

    Raises:
        OSError: if it cannot be made.
        UnsafeFileError: if a component is a link, or is not a folder.
    """
    with _parent_of(root, PurePath(name) / "_", make=True):
        return root / name


def remove_below(root: Path, name: str | PurePath) -> None:
    """Remove a file or a link, not what the link points to; do nothing if there is none.

    Raises:
        OSError: if it cannot be removed.
        UnsafeFileError: if it is a folder, or if a parent folder is a link.
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
        with _parent_of(root, name) as parent_and_name:
            yield parent_and_name
    else:
        with _parent_of(root, PurePath(name).parent / "_"):
            yield None, str(root / name)


@contextmanager
def replace_below(root: Path, name: str | PurePath, make: bool = False) -> Iterator[BinaryIO]:
    """Yield a new file, which replaces the file of this name once it is completely on the disk.

    A link of this name is replaced, not followed.

    Args:
        root, name: as in `open_below`.
        make: create missing parent folders.

    Raises:
        OSError: if it cannot be written; the old file is unchanged then.
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
"""Maximum depth of folders that are searched. Deeper ones could exceed the recursion limit and the maximum length of a path."""


def walk(root: str | os.PathLike[str], strict: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the folders below a folder as ``os.walk`` does, without recursion, and not deeper than `MAX_FOLDER_DEPTH`.

    Links to folders are listed among the folders, but not entered. A folder that cannot be read is left out.

    Args:
        root: the folder.
        strict: raise an error for deeper folders instead of leaving them out.

    Yields:
        The path of a folder, the names of its subfolders, from which the caller may remove some, and all other names.

    Raises:
        UnsafeFileError: if `strict`, and there are deeper folders.
    """
    stack = [(os.fspath(root), 0)]
    while stack:
        folder, depth = stack.pop()
        subfolders: list[str] = []
        others: list[str] = []
        links = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    (subfolders if _is_folder(entry) else others).append(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
        except OSError:
            continue
        yield folder, subfolders, others
        inner = [(os.path.join(folder, name), depth + 1) for name in reversed(subfolders) if name not in links]
        if depth < MAX_FOLDER_DEPTH:
            stack += inner
        elif inner and strict:
            raise UnsafeFileError(f"{root}: its folders are nested deeper than {MAX_FOLDER_DEPTH} levels")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def links_that_leave(root: Path, allowed: Sequence[str] = ()) -> list[Path]:
    """Return the links below a folder whose target is outside of it.

    Args:
        root: the folder.
        allowed: patterns of paths, relative to the folder, at which a link to a single file may point out of it.

    Raises:
        UnsafeFileError: if its folders are nested too deep.
    """
    real_root = os.path.realpath(root)
    links = []
    for folder, subfolders, files in walk(root, strict=True):
        for name in (*subfolders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                target = os.path.realpath(path)
                leaves = target != real_root and not target.startswith(real_root + os.sep)
                if leaves and not (_matches(path.relative_to(root), allowed) and not path.is_dir()):
                    links.append(path)
    return links


def _matches(path: PurePath, patterns: Sequence[str]) -> bool:
    """Return whether a relative path matches a pattern with the same number of components."""
    return any(path.match(pattern) and len(path.parts) == len(PurePath(pattern).parts) for pattern in patterns)


def refuse_links_that_leave(root: Path, purpose: str, allowed: Sequence[str] = ()) -> None:
    """Raise an error if links below a folder point out of it.

    This protects against libraries that write by path (W&B, CSV loggers). Gridlight's own code opens files with `open_below`
    and similar functions, which follow no links.

    Args:
        root: the folder.
        purpose: the refused operation, such as ``resume``.
        allowed: as in `links_that_leave`.

    Raises:
        UnsafeFileError: if there is such a link; the message names it.
    """
    if links := links_that_leave(root, allowed):
        raise UnsafeFileError(
            f"{links[0]}: this link points out of the folder, so {purpose} is refused. Remove it, or replace it by a copy"
        )


def _copy_contents(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a file. Blocks of zeros become holes, so that a sparse file does not fill the disk."""
    while block := source.read(1 << 20):
        if block.count(0) == len(block):
            target.seek(len(block), os.SEEK_CUR)
        else:
            target.write(block)
    target.truncate()


def copy_tree_below(root: Path, target: Path, leave_out: Sequence[str] = ()) -> None:
    """Copy the regular files below a folder. Links, pipes, devices, and deep nesting are errors.

    Args:
        root: the folder to copy.
        target: the folder to make.
        leave_out: names in the root folder that are not copied. Names that begin with a dot are never copied.

    Raises:
        UnsafeFileError: for anything but regular files and folders, or if folders are nested deeper than `MAX_FOLDER_DEPTH`.
    """
    target.mkdir(parents=True)
    for folder, subfolders, files in walk(root, strict=True):
        parent = Path(folder).relative_to(root)

        def is_copied(name: str, at_root: bool = parent == Path()) -> bool:
            return not name.startswith(".") and not (at_root and name in leave_out)

        subfolders[:] = sorted(filter(is_copied, subfolders))
        for name in subfolders:
            if os.path.islink(os.path.join(folder, name)):
                raise _link_error(Path(folder, name))
            (target / parent / name).mkdir()
        for name in sorted(filter(is_copied, files)):
            with open_below(root, parent / name) as source, (target / parent / name).open("xb") as copy:
                _copy_contents(source, copy)
