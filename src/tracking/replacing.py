"""Files that take the place of others as a whole, when all of them is on the disk: whoever reads sees the old one or the new
one.

The disk takes milliseconds for each, but takes many at a time: where a process writes the files of many runs,
`replaced_together` lets them wait for it together.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

AT_A_TIME = 16
"""Files that the disk is given at a time."""

_waiting: dict[Path, Path] | None = None
"""What is written for a file, where files are replaced together."""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of another."""
    partial = path.with_name(f".{path.name}.partial")
    if _waiting is not None:
        _waiting.pop(path, None)
    partial.unlink(missing_ok=True)  # what waits, or a killed process left, may have a second name
    try:
        yield partial
        if _waiting is None:
            _to_disk(partial)
            os.replace(partial, path)
        else:
            _waiting[path] = partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def linked(source: Path, target: Path) -> bool:
    """Give a file, just written, a second name; False where that cannot be. Replacing either leaves the other alone."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        if _waiting is None:
            os.link(source, partial)
            os.replace(partial, target)
        else:
            _waiting.pop(target, None)
            os.link(_waiting.get(source, source), partial)
            _waiting[target] = partial
    except OSError:
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
    files = dict(_waiting)
    _waiting.clear()
    with ThreadPoolExecutor(min(AT_A_TIME, len(files))) as pool:
        problems = list(pool.map(_problem_of, files.values()))
    for place, (path, partial) in enumerate(files.items()):
        try:
            if problems[place] is None:
                os.replace(partial, path)
            else:
                partial.unlink(missing_ok=True)
        except OSError as error:
            problems[place] = error
    for problem in problems:
        if problem is not None:
            raise problem


def _problem_of(path: Path) -> OSError | None:
    try:
        _to_disk(path)
    except OSError as error:
        return error
    return None


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:  # Windows lets no file be flushed that is only read
        os.fsync(file.fileno())
