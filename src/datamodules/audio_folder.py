"""A folder of sounds of the user's: WAV files in a folder a class, or with the class in their names."""

import re
from operator import itemgetter
from pathlib import Path
from typing import Any

from src.datamodules.audio import Audio, Labelled
from src.datamodules.splitting import completed
from src.errors import UserError


class AudioFolder(Audio):
    """WAV files of a folder. Validation and test are folders of their own, or else drawn, each class in proportion.

    Args:
        path: the folder; with `val_path` and `test_path` it is all training data.
        pattern: where the class stands in a file's path below the folder, such as ``{label}_*.wav``; ``*`` is anything
            within a name. None: a folder a class, with files at any depth.
        val_path, test_path: folders of the other splits.
        test_fraction: share of a test split that is drawn.
        common: arguments of `Audio`.
    """

    def __init__(
        self,
        path: Path,
        pattern: str | None = None,
        val_path: Path | None = None,
        test_path: Path | None = None,
        test_fraction: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.pattern = pattern
        self.test_fraction = test_fraction
        self.paths = {"train": Path(path)}
        self.paths |= {name: Path(folder) for name, folder in (("val", val_path), ("test", test_path)) if folder}

    def files(self) -> dict[str, list[Labelled]]:
        given = {name: labelled_files(folder, self.pattern) for name, folder in self.paths.items()}
        return completed(given, self.val_fraction, self.test_fraction, self.split_seed, itemgetter(1), self.fold)


CLASS_FOLDERS = r"(?P<label>[^/]+)/.+\.wav"


def labelled_files(folder: Path, pattern: str | None) -> list[Labelled]:
    """Return the WAV files of a folder with their classes, in the order of their names.

    Raises:
        UserError: if there is no such folder, or no file that fits.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    fits = re.compile(CLASS_FOLDERS if pattern is None else _regular(pattern), re.IGNORECASE)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = [(folder / name, match["label"]) for name in names if (match := fits.fullmatch(name))]
    if not found:
        wanted = "is a WAV file in a folder that names its class"
        if pattern is not None:
            wanted = f"fits datamodule.pattern={pattern}"
        raise UserError(f"{folder}: none of the {len(names)} files here{_example(names)} {wanted}")
    return found


def _regular(pattern: str) -> str:
    """Return the regular expression of a pattern; of several readings, the class is the shortest."""
    meanings = {"{label}": "(?P<label>[^/]+?)", "*": "[^/]*"}
    return "".join(meanings.get(part, re.escape(part)) for part in re.split(r"(\{label\}|\*)", pattern))


def _example(names: list[str]) -> str:
    return f", such as {names[0]}," if names else ""
