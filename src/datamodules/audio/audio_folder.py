"""A folder of WAV files of the user: one subfolder per class, or the class in the file names."""

from pathlib import Path
from typing import Any

from src.datamodules.audio.base import Audio
from src.datamodules.io.labelled_folder import Labelled
from src.datamodules.splits.holdout import split_paths


class AudioFolder(Audio):
    """WAV files of a folder. Validation and test have their own folders, or are drawn, stratified by class.

    Args:
        path: the data folder; with `val_path` and `test_path`, all of it is training data.
        pattern: position of the class in the path of a file below the folder, such as ``{label}_*.wav``; ``*`` matches
            anything within a name. None: one subfolder per class, with files at any depth.
        val_path, test_path: folders of the other splits.
        test_fraction: share of the test split, if it is drawn.
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
        return self.labelled_files(self.pattern, self.test_fraction)
