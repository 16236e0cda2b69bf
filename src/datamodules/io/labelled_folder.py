"""Folders of files with a class each: a folder a class, or the class in the files' names."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from src.core.errors import UserError
from src.core.escape import printable

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
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = []
    seen: dict[tuple[int, int], Path] = {}
    for place, inner, names in os.walk(folder, followlinks=True):
        here = Path(place)
        inner[:] = [name for name in inner if not name.startswith(".") and not _leads_back(here / name)]
        for name in inner:
            status = os.stat(here / name)
            other = seen.setdefault((status.st_dev, status.st_ino), here / name)
            if other != here / name:  # folders with links to each other have countless paths
                raise UserError(f"{here / name}: this is the same folder as {other}, through a link; remove the link")
        found += [here / name for name in names if not name.startswith(".")]
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def _leads_back(folder: Path) -> bool:
    """Tell whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _regular(pattern: str) -> str:
    """Return the regular expression of a pattern; of several readings, the class is the shortest."""
    meanings = {"{label}": "(?P<label>[^/]+?)", "*": "[^/]*"}
    return "".join(meanings.get(part, re.escape(part)) for part in re.split(r"(\{label\}|\*)", pattern))


def _example(names: list[str]) -> str:
    return f", such as {names[0]}," if names else ""
