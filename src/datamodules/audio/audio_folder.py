"""A folder of sounds of the user's: WAV files in a folder a class, or with the class in their names."""

from operator import itemgetter
from pathlib import Path
from typing import Any

from src.datamodules.audio.base import ENDINGS, Audio
from src.datamodules.io.labelled_folder import Labelled, labelled_files
from src.datamodules.splits.holdout import completed, split_paths


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
        self.paths = split_paths(path, val_path, test_path)

    def files(self) -> dict[str, list[Labelled]]:
        given = {name: labelled_files(folder, self.pattern, ENDINGS, "WAV file") for name, folder in self.paths.items()}
        return completed(given, self.val_fraction, self.test_fraction, self.split_seed, itemgetter(1), self.fold)
