"""Folders of files with a class each: a folder a class, or the class in the files' names."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from src.core.errors import UserError
from src.core.escape import printable

MAX_ENTRIES = 5_000_000
"""The most files and folders below a folder of data."""
MAX_LINKS = 50_000
"""The most links to folders that are followed."""
MAX_DEPTH = 32
"""The most folders of a folder of data that lie in each other."""
MAX_WILDCARDS = 3
"""The most wildcards of a component of a pattern: the time to match a name grows with their power."""
Labelled = tuple[Path, str]
"""A file and its class."""
SPLIT_NAMES = {
    "train": "path",
    "training": "path",
    "val": "val_path",
    "valid": "val_path",
    "validation": "val_path",
    "test": "test_path",
    "testing": "test_path",
}
"""Names of folders that people give to splits, large or small, and the key that each belongs to."""


def labelled_files(folder: Path, pattern: str | None, endings: Sequence[str], what: str) -> list[Labelled]:
    """Return the files of a folder with their classes, in the order of their names.

    Args:
        folder: where they lie.
        pattern: where the class stands in a path below it, such as ``{label}_*.wav``; None: the first folder names it.
        endings: of the files that count where there is no pattern, such as ``.wav``.
        what: such files, for the error.

    Raises:
        UserError: if there is no such folder, no file that fits, or if its folders are splits.
    """
    names = _names(folder)
    any_ending = "|".join(map(re.escape, endings))
    fits = re.compile(rf"(?P<label>[^/]+)/.+({any_ending})" if pattern is None else _regular(pattern), re.IGNORECASE)
    found = [(folder / name, printable(match["label"])) for name in names if (match := fits.fullmatch(name))]
    if not found:
        wanted = f"is a {what} in a folder that names its class"
        if pattern is not None:
            wanted = f"fits datamodule.pattern={pattern}"
        raise UserError(f"{folder}: none of the {len(names)} files here{_example(names)} {wanted}")
    labels = {label for _, label in found}
    if pattern is None and {label.lower() for label in labels} <= set(SPLIT_NAMES):
        keys = ((SPLIT_NAMES[label.lower()], label) for label in sorted(labels, key=str.lower, reverse=True))
        words = " ".join(f"datamodule.{key}={folder / label}" for key, label in keys)
        raise UserError(f"{folder}: its folders are splits, not classes: {words}")
    return found


def files_in(folder: Path, endings: Sequence[str]) -> list[Path]:
    """Return the files of a folder, at any depth, that end so, in the order of their names.

    Raises:
        UserError: if there is none.
    """
    names = _names(folder)
    found = [folder / name for name in names if name.lower().endswith(tuple(endings))]
    if not found:
        raise UserError(f"{folder}: none of the {len(names)} files here{_example(names)} ends in {', '.join(endings)}")
    return found


def listed(inputs: Sequence[str], endings: Sequence[str]) -> list[str]:
    """Return inputs with the files of a folder in its place."""
    return [str(p) for given in inputs for p in (files_in(Path(given), endings) if os.path.isdir(given) else [given])]


def _names(folder: Path) -> list[str]:
    """Return the paths of the files of a folder, relative to it.

    Raises:
        UserError: if there is no such folder, if it is the root of the file system, or if it holds more than `MAX_ENTRIES`
            files and folders or `MAX_LINKS` links to folders, or folders in each other beyond `MAX_DEPTH`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if (real := folder.resolve()) == real.parent:
        raise UserError(f"{folder}: this is the root of the file system, and a folder of data is expected")
    found: list[str] = []
    entries = links = 0
    waiting = [("", 0)]
    while waiting:
        place, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise UserError(f"{folder}: there are more than {MAX_DEPTH} folders in each other here: {place[:80]}…")
        with suppress(OSError), os.scandir(folder / place) as inside:
            for entry in inside:
                if entry.name.startswith("."):
                    continue
                entries += 1
                if entries > MAX_ENTRIES:
                    raise UserError(
                        f"{folder}: there are more than {MAX_ENTRIES:,} files and folders here, the most that are searched"
                    )
                name = f"{place}{entry.name}"
                kind = _kind(entry)
                if kind == "file":
                    found.append(name)
                elif kind == "folder" and entry.is_symlink():
                    links += 1
                    if links > MAX_LINKS:
                        raise UserError(f"{folder}: there are more than {MAX_LINKS:,} links to folders here")
                    if not _leads_back(folder / name):
                        waiting.append((f"{name}/", depth + 1))
                elif kind == "folder":
                    waiting.append((f"{name}/", depth + 1))
    return sorted(found)


def _kind(entry: os.DirEntry[str]) -> str:
    """Return ``file``, ``folder``, or ``other``; a link is what it points to."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself, for one
        return "other"


def _leads_back(folder: Path) -> bool:
    """Return whether a link leads to a folder that it lies in."""
    return folder.parent.resolve().is_relative_to(folder.resolve())


def _regular(pattern: str) -> str:
    """Return the regular expression of a pattern; of several readings, the class is the shortest."""
    pattern = re.sub(r"\*+", "*", pattern)
    if any(len(re.findall(r"\{label\}|\*", part)) > MAX_WILDCARDS for part in pattern.split("/")):
        raise UserError(
            f"datamodule.pattern={pattern[:80]}: between slashes are at most {MAX_WILDCARDS} of {{label}} and *"
        )
    meanings = {"{label}": "(?P<label>[^/]+?)", "*": "[^/]*"}
    return "".join(meanings.get(part, re.escape(part)) for part in re.split(r"(\{label\}|\*)", pattern))


def _example(names: list[str]) -> str:
    return f", such as {names[0]}," if names else ""
