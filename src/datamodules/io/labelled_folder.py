"""Folders of labelled files: one subfolder per class, or the class in the file names."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from src.core.errors import UserError
from src.core.escape import printable

MAX_ENTRIES = 5_000_000
"""Largest number of files and folders below a data folder."""
MAX_LINKS = 50_000
"""Largest number of links to folders that are followed."""
MAX_DEPTH = 32
"""Largest depth of nested folders in a data folder."""
MAX_WILDCARDS = 3
"""Largest number of wildcards per component of a pattern: the matching time is exponential in it."""
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
"""Common folder names of splits, in any case, and the config key of each."""


def labelled_files(folder: Path, pattern: str | None, endings: Sequence[str], kind: str) -> list[Labelled]:
    """Return the files of a folder with their classes, sorted by name.

    Args:
        folder: the data folder.
        pattern: position of the class in the path of a file below `folder`, such as ``{label}_*.wav``; None: the class is
            the name of the first subfolder.
        endings: accepted file extensions if there is no pattern, such as ``.wav``.
        kind: such a file with its article, for error messages.

    Raises:
        UserError: if there is no such folder, no file matches, or the subfolders are splits.
    """
    names = _names(folder)
    any_ending = "|".join(map(re.escape, endings))
    expression = re.compile(
        rf"(?P<label>[^/]+)/.+({any_ending})" if pattern is None else _regular(pattern), re.IGNORECASE
    )
    parts = None if pattern is None else pattern.lower().replace("{label}", "*").split("/")
    files = [
        (folder / name, printable(match["label"]))
        for name in names
        if (parts is None or _may_match(name, parts)) and (match := expression.fullmatch(name))
    ]
    if not files:
        requirement = f"is {kind} in a folder that is named after its class"
        if pattern is not None:
            requirement = f"matches datamodule.pattern={pattern}"
        raise UserError(f"{folder}: none of the {len(names)} files here{_example(names)} {requirement}")
    labels = {label for _, label in files}
    if pattern is None and {label.lower() for label in labels} <= set(SPLIT_NAMES):
        keys = ((SPLIT_NAMES[label.lower()], label) for label in sorted(labels, key=str.lower, reverse=True))
        overrides = " ".join(f"datamodule.{key}={folder / label}" for key, label in keys)
        raise UserError(f"{folder}: its subfolders are splits, not classes. Set {overrides}")
    return files


def expand_folders(inputs: Sequence[str], endings: Sequence[str]) -> list[str]:
    """Return the inputs, with each folder replaced by its files with one of the extensions, at any depth, sorted by name.

    Raises:
        UserError: if a folder has no such file.
    """
    paths: list[str] = []
    for item in inputs:
        if not os.path.isdir(item):
            paths.append(item)
            continue
        names = _names(Path(item))
        files = [str(Path(item, name)) for name in names if name.lower().endswith(tuple(endings))]
        if not files:
            raise UserError(
                f"{item}: none of the {len(names)} files here{_example(names)} ends in {', '.join(endings)}"
            )
        paths += files
    return paths


def _names(folder: Path) -> list[str]:
    """Return the sorted paths of all files below a folder, relative to it.

    Raises:
        UserError: if there is no such folder, if it is the root of the file system, or if it exceeds `MAX_ENTRIES`,
            `MAX_LINKS` or `MAX_DEPTH`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if (real := folder.resolve()) == real.parent:
        raise UserError(f"{folder}: this is the root of the file system; a data folder is expected")
    files: list[str] = []
    entries = links = 0
    pending = [("", 0)]
    while pending:
        parent, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise UserError(f"{folder}: folders are nested more than {MAX_DEPTH} deep here: {parent[:80]}…")
        with suppress(OSError), os.scandir(folder / parent) as inside:
            for entry in inside:
                if entry.name.startswith("."):
                    continue
                entries += 1
                if entries > MAX_ENTRIES:
                    raise UserError(
                        f"{folder}: there are more than {MAX_ENTRIES:,} files and folders here, which is the limit"
                    )
                name = f"{parent}{entry.name}"
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()  # links are resolved
                except OSError:  # for example, a link to itself
                    continue
                if is_file:
                    files.append(name)
                if not is_folder:
                    continue
                if entry.is_symlink():
                    links += 1
                    if links > MAX_LINKS:
                        raise UserError(f"{folder}: there are more than {MAX_LINKS:,} links to folders here")
                    target = (folder / name).resolve()
                    if (folder / parent).resolve().is_relative_to(target):
                        continue  # a cycle
                pending.append((f"{name}/", depth + 1))
    return sorted(files)


def _may_match(name: str, parts: Sequence[str]) -> bool:
    """Return whether each component of a path matches its part of a pattern, in linear time: the regular expression takes a
    time that is cubic in the length of a name that it does not match.
    """
    components = name.lower().split("/")
    return len(components) == len(parts) and all(
        fnmatchcase(component, part.replace("[", "[[]").replace("?", "[?]"))
        for component, part in zip(components, parts, strict=True)
    )


def _regular(pattern: str) -> str:
    """Return the regular expression of a pattern; if several classes match, the shortest is used."""
    pattern = re.sub(r"\*+", "*", pattern)
    if any(len(re.findall(r"\{label\}|\*", part)) > MAX_WILDCARDS for part in pattern.split("/")):
        raise UserError(
            f"datamodule.pattern={pattern[:80]}: at most {MAX_WILDCARDS} of {{label}} and * are allowed between slashes"
        )
    expressions = {"{label}": "(?P<label>[^/]+?)", "*": "[^/]*"}
    return "".join(expressions.get(part, re.escape(part)) for part in re.split(r"(\{label\}|\*)", pattern))


def _example(names: list[str]) -> str:
    return f", such as {names[0]}," if names else ""
