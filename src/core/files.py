"""Safe access to files in folders that may come from someone else.

A run folder, a sweep, or a data set may contain anything: a link to a private file, a named pipe that never ends, a file of a
terabyte. The functions below open a file from a trusted root folder, component by component, and never through a link; they
open regular files only; and they read at most a given number of bytes. The checks are safe against concurrent changes of the
folder, because each component is opened relative to the one before it (``openat`` with ``O_NOFOLLOW``).

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

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


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


_CONFINED: set[str] = set()


def confine(folder: Path) -> None:
    """Do not follow a link in place of a folder from now on, in this process.

    A root is trusted, as the user named it. The folder of a job is not: somebody who can write to its sweep could replace it
    by a link while the job runs. After this call it is opened through its parent, as a component below a root is.

    Args:
        folder: absolute path.
    """
    _CONFINED.add(str(folder))


@contextmanager
def _parent_of(root: Path, name: str | PurePath, make: bool = False) -> Iterator[tuple[int | None, str]]:
    """Yield a descriptor of the folder that contains a file, and the file's last component.

    For a file in the root itself, yield None and its path, as no folder below the root has to be opened.

    Args:
        root: the trusted folder.
        name: a path below it.
        make: create missing parent folders.

    Raises:
        UnsafeFileError: if the path leaves the root, or if a parent folder is a link.
    """
    *folders, last = (name if isinstance(name, PurePath) else PurePath(name)).parts or ("..",)
    if ".." in (*folders, last) or os.path.isabs(name):
        raise UnsafeFileError(f"{name}: this path leaves its folder")
    if str(root) in _CONFINED:
        folders, root = [root.name, *folders], root.parent
    if not folders:
        yield None, os.path.join(root, last)
        return
    path = root
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            path = path / folder
            if make:
                with suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=descriptor)
            try:
                inner = os.open(folder, _FOLDER, dir_fd=descriptor)
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


def _open(root: Path, name: str | PurePath, flags: int, make: bool = False) -> int:
    writing = bool(flags & (os.O_WRONLY | os.O_RDWR))
    path = os.path.join(root, name)
    with _parent_of(root, name, make) as (parent, last):
        try:
            descriptor = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=parent)
        except OSError as error:
            raise _explain(error, Path(path), parent, last, writing) from error
    try:
        return _check_regular(descriptor, path)
    except IsADirectoryError as error:
        raise UnsafeFileError(f"{path}: this is a folder, and a file is expected here") from error


def _check_regular(descriptor: int, path: str | Path) -> int:
    """Return a descriptor if it is that of a regular file; otherwise close it and raise an error."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise UnsafeFileError(f"{path}: this is not a regular file")


def _read_bounded(file: BinaryIO, limit: int, path: str | Path) -> bytes:
    """Return the contents of a file, and close it.

    Raises:
        UnsafeFileError: if it has more than `limit` bytes.
    """
    with file:
        size = os.fstat(file.fileno()).st_size
        contents = file.read(size + 1) if size <= limit else b""
        if len(contents) > size:  # the file has grown in the meantime
            contents += file.read(limit + 1 - len(contents))
    if size > limit or len(contents) > limit:
        raise UnsafeFileError(f"{path}: this file has more than {limit / 2**20:,.0f} MiB, the most that is read")
    return contents


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
    return os.fdopen(_check_regular(os.open(path, os.O_RDONLY | os.O_NONBLOCK), path), "rb")


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
    return _read_bounded(open_below(root, name), limit, os.path.join(root, name))


def is_file_below(root: Path, name: str | PurePath) -> bool:
    """Return whether there is a regular file that `open_below` would open."""
    try:
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
    descriptor = _open(root, name, os.O_RDONLY)
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
    with _parent_of(root, name) as (parent, last):
        try:
            os.replace(last, _path_beside(last, target), src_dir_fd=parent, dst_dir_fd=parent)
        except IsADirectoryError as error:
            raise UnsafeFileError(f"{root / target}: this is a folder, and a file is expected here") from error


def link_below(root: Path, name: str | PurePath, target: str | PurePath) -> None:
    """Create a hard link to a regular file in the same folder; the new name must not exist."""
    os.close(_open(root, name, os.O_RDONLY))
    with _parent_of(root, name) as (parent, last):
        os.link(last, _path_beside(last, target), src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)


def _path_beside(path: str, name: str | PurePath) -> str:
    """Return a path in the same folder, with the last component of `name`."""
    return os.path.join(os.path.dirname(path), PurePath(name).name)


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
    with suppress(FileNotFoundError), _parent_of(root, name) as (parent, last):
        try:
            os.unlink(last, dir_fd=parent)
        except IsADirectoryError as error:
            raise UnsafeFileError(f"{root / name}: this is a folder, and a file is expected here") from error


def remove_folder_below(root: Path, name: str | PurePath) -> None:
    """Remove a folder if it is empty; do nothing if it is not, or if there is none. No link is followed."""
    with suppress(OSError, UnsafeFileError), _parent_of(root, name) as (parent, last):
        os.rmdir(last, dir_fd=parent)


def identity_of(path: Path) -> tuple[int, int]:
    """Return the device and the inode of a file, folder or link, which no other one has."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def remove_tree_below(root: Path, name: str | PurePath, identity: tuple[int, int], partial: str) -> None:
    """Remove a folder with its contents, or a link but not what it points to.

    The folder is renamed first, so that no half-removed folder is left under its name.

    Args:
        root, name: as in `open_below`.
        identity: what `identity_of` returned for it. Another folder of the same name is not removed.
        partial: its name while it is removed.

    Raises:
        OSError: if it cannot be removed, or not completely.
        RecursionError: if its folders are nested too deep.
        UnsafeFileError: if a parent folder is a link, or if this is another folder.
    """
    with _parent_of(root, name) as (parent, last):
        status = os.stat(last, dir_fd=parent, follow_symlinks=False)
        if (status.st_dev, status.st_ino) != identity:
            raise UnsafeFileError(f"{root / name}: this folder has been replaced by another one in the meantime")
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(last, dir_fd=parent)
            return
        renamed = _path_beside(last, partial)
        os.rename(last, renamed, src_dir_fd=parent, dst_dir_fd=parent)
        shutil.rmtree(renamed, dir_fd=parent)


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
                    is_folder = False
                    with suppress(OSError):  # a circular link
                        is_folder = entry.is_dir()
                    (subfolders if is_folder else others).append(entry.name)
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


def links_that_leave(root: Path, allowed: Sequence[str] = ()) -> list[Path]:
    """Return the links below a folder whose target is outside of it.

    This protects against libraries that write by path (W&B, CSV loggers). Gridlight's own code opens files with `open_below`
    and similar functions, which follow no links.

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
                is_allowed = any(
                    path.relative_to(root).match(pattern)
                    and len(path.relative_to(root).parts) == pattern.count("/") + 1
                    for pattern in allowed
                )
                if leaves and not (is_allowed and not path.is_dir()):
                    links.append(path)
    return links


def data_ranges(file: BinaryIO) -> list[tuple[int, int]]:
    """Return the start and the end of each part of a file that is on the disk, without its holes, which are read as zeros."""
    descriptor, ranges, end = file.fileno(), [], 0
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        while True:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            ranges.append((start, end))
    except OSError as error:
        if error.errno != errno.ENXIO:  # there are only holes after this position
            raise
        return ranges
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


def _copy_contents(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a file. Its holes remain holes, so that a sparse file neither takes long nor fills the disk."""
    for start, end in data_ranges(source):
        source.seek(start)
        target.seek(start)
        while start < end and (block := source.read(min(1 << 20, end - start))):
            start += target.write(block)
    target.truncate(os.fstat(source.fileno()).st_size)


def copy_tree_below(root: Path, name: str | PurePath, target: Path, leave_out: Sequence[str] = ()) -> None:
    """Copy the regular files below a folder. Links, pipes, devices, and deep nesting are errors.

    Args:
        root: the folder that the user named.
        name: the folder to copy, a path below the root.
        target: the folder to make.
        leave_out: names in the copied folder that are not copied. Names that begin with a dot are never copied.

    Raises:
        UnsafeFileError: for anything but regular files and folders, or if folders are nested deeper than `MAX_FOLDER_DEPTH`.
    """
    target.mkdir(parents=True)
    for folder, subfolders, files in walk(root / name, strict=True):
        parent = Path(folder).relative_to(root / name)

        def is_copied(name: str, at_root: bool = parent == Path()) -> bool:
            return not name.startswith(".") and not (at_root and name in leave_out)

        subfolders[:] = sorted(filter(is_copied, subfolders))
        for subfolder in subfolders:
            if os.path.islink(os.path.join(folder, subfolder)):
                raise _link_error(Path(folder, subfolder))
            (target / parent / subfolder).mkdir()
        for file in sorted(filter(is_copied, files)):
            with open_below(root, name / parent / file) as source, (target / parent / file).open("xb") as copy:
                _copy_contents(source, copy)
