"""Free Spoken Digit Dataset: digits in English, spoken by six people, at 8 kHz."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from src.datamodules.audio import Audio, Labelled
from src.datamodules.splitting import split_indices
from src.errors import UserError

HOME = "https://github.com/Jakobovski/free-spoken-digit-dataset"
TEST_INDICES = range(5)
"""The recordings of each digit and speaker that are the usual test set."""
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav")


class FSDD(Audio):
    """Recordings ``{digit}_{speaker}_{index}.wav`` in ``paths.data/fsdd/recordings``. Index 0 to 4 is the usual test
    set; validation is cut from the rest, every digit of every speaker in the same proportion.

    Args:
        common: arguments of `Audio`.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)

    def files(self) -> dict[str, list[Labelled]]:
        found = self._complete(self.data_dir / "fsdd" / "recordings")
        test = [entry for entry in found if entry[2] in TEST_INDICES]
        rest = [entry for entry in found if entry[2] not in TEST_INDICES]
        groups = np.array([f"{label}_{path.name.split('_')[1]}" for path, label, _ in rest])
        parts = split_indices(len(rest), self.val_fraction, 0.0, self.split_seed, groups)
        chosen = {"train": [rest[i] for i in parts["train"]], "val": [rest[i] for i in parts["val"]], "test": test}
        return {name: [(path, label) for path, label, _ in part] for name, part in chosen.items()}

    def _complete(self, folder: Path) -> list[tuple[Path, str, int]]:
        """Return path, digit and index of every recording.

        Raises:
            UserError: if some are missing: every digit and speaker has equally many.
        """
        where = f"Copy the folder recordings of {HOME} to {folder}, or set paths.data to the folder that holds fsdd/recordings."
        if not folder.is_dir():
            raise UserError(
                f"datamodule=fsdd needs 3,000 files such as 0_george_0.wav in {folder}, and there is no such folder.\n{where}"
            )
        found = [(path, match) for path in sorted(folder.iterdir()) if (match := _NAME.fullmatch(path.name))]
        entries = [(path, match["digit"], int(match["index"])) for path, match in found]
        indices = defaultdict(set)
        for _, match in found:
            indices[match["digit"], match["speaker"]].add(int(match["index"]))
        most = 1 + max((index for _, _, index in entries), default=len(TEST_INDICES))
        speakers = sorted({speaker for _, speaker in indices}) or ["george"]
        wanted = ((digit, speaker, index) for digit in "0123456789" for speaker in speakers for index in range(most))
        missing = [f"{d}_{speaker}_{i}.wav" for d, speaker, i in wanted if i not in indices[d, speaker]]
        if missing:
            named = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise UserError(f"datamodule=fsdd: {len(missing)} recordings are missing in {folder}: {named}.\n{where}")
        return entries
