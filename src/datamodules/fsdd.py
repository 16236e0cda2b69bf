"""Free Spoken Digit Dataset: digits in English, spoken by six people, at 8 kHz."""

import re
from pathlib import Path

from src.datamodules.audio import Audio
from src.datamodules.folders import Labelled
from src.datamodules.splitting import completed
from src.errors import UserError

HOME = "https://github.com/Jakobovski/free-spoken-digit-dataset"
TEST_INDICES = range(5)
"""The recordings of each digit and speaker that are the usual test set."""
_NAME = re.compile(r"\d_[^_]+_\d+\.wav")


class FSDD(Audio):
    """Recordings ``{digit}_{speaker}_{index}.wav`` in ``paths.data/fsdd/recordings``. Index 0 to 4 is the usual test
    set; validation is cut from the rest, every digit of every speaker in the same proportion.
    """

    def files(self) -> dict[str, list[Labelled]]:
        found = self._complete(self.data_dir / "fsdd" / "recordings")
        test = [path for path in found if _index(path.name) in TEST_INDICES]
        rest = [path for path in found if _index(path.name) not in TEST_INDICES]
        given = {"train": rest, "test": test}
        together = _speaker if self.fold and self.fold.group else None
        parts = completed(
            given, self.val_fraction, 0.0, self.split_seed, _digit_and_speaker, self.fold, kept_together=together
        )
        return {name: [(path, path.name[0]) for path in part] for name, part in parts.items()}

    def groups(self, column: str) -> list[str]:
        if column != "speaker":
            raise UserError(f"cross_validation.group={column}: recordings can be grouped by speaker")
        return [_speaker(path) for path in self._complete(self.data_dir / "fsdd" / "recordings")]

    def _complete(self, folder: Path) -> list[Path]:
        """Return the path of every recording.

        Raises:
            UserError: if some are missing: every digit and speaker has equally many.
        """
        where = f"Copy the folder recordings of {HOME} to {folder}, or set paths.data to the folder that holds fsdd/recordings."
        found = {path.name: path for path in sorted(folder.glob("*.wav")) if _NAME.fullmatch(path.name)}
        if not found:
            raise UserError(
                f"datamodule=fsdd needs 3,000 files such as 0_george_0.wav in {folder}: none is there.\n{where}"
            )
        speakers = sorted({name.split("_")[1] for name in found})
        most = 1 + max(len(TEST_INDICES), *map(_index, found))  # one at least is for training
        wanted = [f"{d}_{speaker}_{i}.wav" for d in range(10) for speaker in speakers for i in range(most)]
        missing = [name for name in wanted if name not in found]
        if missing:
            named = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise UserError(f"datamodule=fsdd: {len(missing)} recordings are missing in {folder}: {named}.\n{where}")
        return list(found.values())


def _index(name: str) -> int:
    return int(name.removesuffix(".wav").rpartition("_")[2])


def _speaker(path: Path) -> str:
    return path.name.split("_")[1]


def _digit_and_speaker(path: Path) -> str:
    return path.name.rpartition("_")[0]
