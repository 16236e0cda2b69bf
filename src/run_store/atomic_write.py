"""Files that are replaced as a whole, once their new contents are on the disk: a reader finds either the old or the new ones.

A sync takes milliseconds, but the disk takes many at a time: a process that writes the files of many runs lets them wait for
it together, with `replaced_together`. No link is followed; see `src.core.files`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from src.core.errors import UserError
from src.core.files import create_below, link_below, move_below, remove_below, sync_below

AT_A_TIME = 16
"""Files that the disk is given at a time."""


class _Partial(NamedTuple):
    """What is written for a file: a root folder, and the names of both below it."""

    root: Path
    partial: Path
    name: Path

    def move(self) -> None:
        move_below(self.root, self.partial, self.name)

    def remove(self) -> None:
        with suppress(OSError, UserError):
            remove_below(self.root, self.partial)


_waiting: dict[Path, _Partial] | None = None
"""What is written for a file, where files are replaced together."""


def _partial_of(path: Path, root: Path | None) -> _Partial:
    root = path.parent if root is None else root
    name = path.relative_to(root)
    return _Partial(root, name.with_name(f".{name.name}.partial"), name)


@contextmanager
def replaced(path: Path, root: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a new file, which replaces another at the end.

    Args:
        path: the file to replace.
        root: the folder of the run or the sweep that it lies in, below which no link is followed; by default its own folder.
    """
    made = _partial_of(path, root)
    if _waiting is not None:
        _waiting.pop(path, None)
    file = create_below(made.root, made.partial, make=True)
    try:
        with file:
            yield file
        if _waiting is None:
            sync_below(made.root, made.partial)
            made.move()
        else:
            _waiting[path] = made
    except BaseException:
        made.remove()
        raise


def linked(source: Path, target: Path, root: Path) -> bool:
    """Give a file, just written, a second name; False where that cannot be. Replacing either leaves the other alone.

    Args:
        source, target: files of one folder.
        root: as in `replaced`.
    """
    made = _partial_of(target, root)
    try:
        made.remove()
        if _waiting is None:
            link_below(root, source.relative_to(root), made.partial)
            made.move()
        else:
            _waiting.pop(target, None)
            waiting = _waiting.get(source)
            link_below(root, waiting.partial if waiting else source.relative_to(root), made.partial)
            _waiting[target] = made
    except (OSError, UserError):
        return False
    return True


@contextmanager
def replaced_together() -> Iterator[None]:
    """Let the files that are replaced below take their places at the end, in their order."""
    global _waiting
    assert _waiting is None, "one within another"
    _waiting = {}
    try:
        yield
    finally:
        try:
            settle()
        finally:
            _waiting = None


def settle() -> None:
    """Let the files that wait take their places now, as somebody is to read them.

    Raises:
        OSError: if one could not; the others have taken theirs.
    """
    if not _waiting:
        return
    files = list(_waiting.values())
    _waiting.clear()
    with ThreadPoolExecutor(min(AT_A_TIME, len(files))) as pool:
        problems = list(pool.map(_problem_of, files))
    for place, made in enumerate(files):
        try:
            if problems[place] is None:
                made.move()
            else:
                made.remove()
        except (OSError, UserError) as error:
            problems[place] = error
    for problem in problems:
        if problem is not None:
            raise problem


def _problem_of(made: _Partial) -> Exception | None:
    try:
        sync_below(made.root, made.partial)
    except (OSError, UserError) as error:
        return error
    return None
