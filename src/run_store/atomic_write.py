"""Atomic writes: a file is replaced once its new contents are on the disk, so that a reader sees the old or the new file.

A sync takes milliseconds, but the disk handles many at a time: a process that writes files of many runs syncs them together
with `batch_writes`. No link is followed; see `src.core.files`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from src.core.errors import UserError
from src.core.files import create_below, link_below, move_below, remove_below, sync_below

MAX_CONCURRENT_SYNCS = 16
"""Number of files that are synced at the same time."""


class _Partial(NamedTuple):
    """A partial file that will replace another: a root folder, and the names of both files below it."""

    root: Path
    partial: Path
    name: Path

    def move(self) -> None:
        move_below(self.root, self.partial, self.name)

    def remove(self) -> None:
        with suppress(OSError, UserError):
            remove_below(self.root, self.partial)


_batch: dict[Path, _Partial] | None = None
"""The partial file of each path in `batch_writes`; None outside of it."""


def _partial_of(path: Path, root: Path | None) -> _Partial:
    root = path.parent if root is None else root
    name = path.relative_to(root)
    return _Partial(root, name.with_name(f".{name.name}.partial"), name)


@contextmanager
def atomic_write(path: Path, root: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a new file, which replaces `path` when the context ends.

    Args:
        path: the file to replace.
        root: the run or sweep folder that contains it, below which no link is followed; by default the folder of the file.
    """
    partial = _partial_of(path, root)
    if _batch is not None:
        _batch.pop(path, None)
    file = create_below(partial.root, partial.partial, make=True)
    try:
        with file:
            yield file
        if _batch is None:
            sync_below(partial.root, partial.partial)
            partial.move()
        else:
            _batch[path] = partial
    except BaseException:
        partial.remove()
        raise


def atomic_link(source: Path, target: Path, root: Path) -> bool:
    """Make a file that was just written a hard link under a second name; return False if that is not possible.

    Replacing one of the two does not change the other.

    Args:
        source, target: paths in one folder.
        root: as in `atomic_write`.
    """
    partial = _partial_of(target, root)
    try:
        partial.remove()
        if _batch is None:
            link_below(root, source.relative_to(root), partial.partial)
            partial.move()
        else:
            _batch.pop(target, None)
            batched = _batch.get(source)
            link_below(root, batched.partial if batched else source.relative_to(root), partial.partial)
            _batch[target] = partial
    except (OSError, UserError):
        return False
    return True


@contextmanager
def batch_writes() -> Iterator[None]:
    """Collect the atomic writes within the context, and finish them together at its end, in their order."""
    global _batch
    assert _batch is None, "batches cannot be nested"
    _batch = {}
    try:
        yield
    finally:
        try:
            flush_writes()
        finally:
            _batch = None


def flush_writes() -> None:
    """Finish the writes of a batch now, because the files are about to be read.

    Raises:
        OSError: if a file could not be written; the others have been.
    """
    if not _batch:
        return
    partials = list(_batch.values())
    _batch.clear()
    with ThreadPoolExecutor(min(MAX_CONCURRENT_SYNCS, len(partials))) as pool:
        syncs = [pool.submit(sync_below, partial.root, partial.partial) for partial in partials]
    errors = []
    for partial, sync in zip(partials, syncs, strict=True):
        try:
            sync.result()
            partial.move()
        except (OSError, UserError) as error:
            partial.remove()
            errors.append(error)
    if errors:
        raise errors[0]
