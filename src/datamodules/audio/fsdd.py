"""Free Spoken Digit Dataset: English digits of six speakers at 8 kHz."""

import hashlib
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.files import open_data_file, read_data_file
from src.datamodules.audio.audio_folder import AudioFolder
from src.datamodules.io.downloads import download
from src.datamodules.io.labelled_folder import Labelled
from src.datamodules.splits.holdout import draw_missing_splits

HOME = "https://github.com/Jakobovski/free-spoken-digit-dataset"
ARCHIVE = "https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/tar.gz/refs/tags/v1.0.10"
CHECKSUM = "45a9b976ba3397a2fd5c70a9f2e43c34f442a3a6be47392ecfc41174b678f37e"
"""SHA-256 of the concatenated names and contents of all recordings, sorted by name; the archive has no fixed checksum, because
it is compressed anew for each download."""
SPEAKERS: tuple[str, ...] = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
REPETITIONS = 50
"""Recordings of each digit by each speaker."""
TEST_INDICES = range(5)
"""Indices of the recordings of the usual test set."""
MAX_FILE_BYTES = 2**24
"""Largest size of a recording."""
MAX_ARCHIVE_BYTES = 2**28
"""Largest size of all recordings; the published ones have 17 MB."""
_NAME = re.compile(r"[0-9]_[^_/]+_(0|[1-9][0-9]*)\.wav")


class FSDD(AudioFolder):
    """Recordings ``{digit}_{speaker}_{index}.wav`` in ``paths.data/fsdd/recordings``. Indices 0 to 4 are the usual
    test set; validation is drawn from the rest, stratified by digit and speaker.

    Args:
        verify: reject recordings that differ from the published ones.
        options: arguments of `AudioFolder`, except those of its folders.
    """

    def __init__(self, verify: bool = True, **options: Any) -> None:
        super().__init__(Path(), **options)
        self.paths = {"train": self.data_dir / "fsdd" / "recordings"}
        self.verify = verify

    def files(self) -> dict[str, list[Labelled]]:
        recordings = self._recordings()
        available = {
            "train": [path for path in recordings if _index(path) not in TEST_INDICES],
            "test": [path for path in recordings if _index(path) in TEST_INDICES],
        }
        fold_groups = _speaker if self.fold and self.fold.group else None
        parts = draw_missing_splits(
            available, self.val_fraction, 0.0, self.split_seed, _digit_and_speaker, self.fold, fold_groups
        )
        return {name: [(path, path.name[0]) for path in part] for name, part in parts.items()}

    def groups(self, column: str) -> list[str]:
        if column != "speaker":
            raise UserError(f"cross_validation.group={column}: recordings can be grouped by speaker")
        return [_speaker(path) for path in self._recordings()]

    def _recordings(self) -> list[Path]:
        """Return the paths of all recordings; download them if there are none.

        Raises:
            UserError: if some are missing (all digits and speakers have equally many), or differ from the published ones.
        """
        folder = self.data_dir / "fsdd" / "recordings"
        if not (folder.is_dir() and any(folder.iterdir())):
            folder = self.write_dir / "fsdd" / "recordings"
            with suppress(OSError):
                folder.rmdir()  # if empty
            download(ARCHIVE, self.write_dir, "fsdd/recordings", lambda archive: self._unpack(archive, folder))
        paths = [path for path in sorted(folder.glob("*.wav")) if _NAME.fullmatch(path.name)]
        names = {path.name for path in paths}
        speakers, count = SPEAKERS, REPETITIONS
        if not self.verify:
            speakers = tuple(sorted(set(map(_speaker, paths)))) or SPEAKERS
            count = 1 + max([len(TEST_INDICES), *map(_index, paths)])  # at least one recording is for training
        instruction = f"Copy the folder recordings of {HOME} to {folder}, or move it away to download it again."
        present = sum(_speaker(path) in speakers and _index(path) < count for path in paths)
        if missing := 10 * len(speakers) * count - present:
            expected = (f"{digit}_{name}_{i}.wav" for digit in range(10) for name in speakers for i in range(count))
            examples = list(islice((name for name in expected if name not in names), 5))
            listing = ", ".join(examples) + (", …" if missing > 5 else "")
            raise UserError(
                f"datamodule=fsdd: {missing:,} recordings are missing in {folder}: {listing}.\n{instruction}"
            )
        if self.verify and _checksum((path.name, read_data_file(path, MAX_FILE_BYTES)) for path in paths) != CHECKSUM:
            raise UserError(
                f"datamodule=fsdd: the recordings in {folder} differ from those of version 1.0.10.\n{instruction} "
                "Or set datamodule.verify=false to use them unverified"
            )
        return paths

    def _unpack(self, archive: Path, folder: Path) -> bool:
        """Extract the recordings of an archive if they are the published ones, and remove it; return whether they are."""
        recordings: dict[str, bytes] = {}
        remaining = MAX_ARCHIVE_BYTES
        try:
            with open_data_file(archive) as packed, tarfile.open(fileobj=packed, mode="r:gz") as tar:
                for member in tar:
                    parent, _, name = member.name.rpartition("/")
                    remaining -= 512 + member.size
                    if remaining < 0:
                        return False
                    if member.isreg() and parent.endswith("/recordings") and _NAME.fullmatch(name):
                        file = tar.extractfile(member)
                        recordings[name] = file.read() if file else b""
        except (tarfile.TarError, EOFError, zlib.error, OSError, UserError):
            return False
        if not recordings or (self.verify and _checksum(sorted(recordings.items())) != CHECKSUM):
            return False
        partial = folder.with_name(".recordings")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, contents in recordings.items():
            (partial / name).write_bytes(contents)
        os.replace(partial, folder)
        archive.unlink()
        return True


def _checksum(recordings: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, contents in recordings:
        digest.update(name.encode())
        digest.update(contents)
    return digest.hexdigest()


def _index(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _speaker(path: Path) -> str:
    return path.name.split("_")[1]


def _digit_and_speaker(path: Path) -> str:
    return path.name.rpartition("_")[0]
