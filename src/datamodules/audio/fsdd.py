"""Free Spoken Digit Dataset: digits in English, spoken by six people, at 8 kHz."""

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
from src.datamodules.audio.base import Audio
from src.datamodules.io.downloads import download
from src.datamodules.io.labelled_folder import Labelled
from src.datamodules.splits.holdout import completed

HOME = "https://github.com/Jakobovski/free-spoken-digit-dataset"
ARCHIVE = "https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/tar.gz/refs/tags/v1.0.10"
SUM = "45a9b976ba3397a2fd5c70a9f2e43c34f442a3a6be47392ecfc41174b678f37e"
"""SHA-256 of names and contents of all recordings, one behind the other in the order of the names; that of the archive is
not known before, as it is packed anew for each download."""
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
RECORDED = 50
"""Recordings of each digit by each speaker."""
TEST_INDICES = range(5)
"""The recordings of each digit and speaker that are the usual test set."""
LARGEST_FILE = 2**24
"""Bytes of the largest recording."""
LARGEST_ARCHIVE = 2**28
"""Bytes of all recordings; the published ones have 17 MB."""
_NAME = re.compile(r"[0-9]_[^_/]+_[0-9]+\.wav")


class FSDD(Audio):
    """Recordings ``{digit}_{speaker}_{index}.wav`` in ``paths.data/fsdd/recordings``. Index 0 to 4 is the usual test
    set; validation is cut from the rest, every digit of every speaker in the same proportion.

    Args:
        verify: refuse recordings that are not the published ones.
        rest: arguments of `Audio`.
    """

    def __init__(self, verify: bool = True, **rest: Any) -> None:
        super().__init__(**rest)
        self.verify = verify

    def files(self) -> dict[str, list[Labelled]]:
        found = self._recordings()
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
        return [_speaker(path) for path in self._recordings()]

    def _recordings(self) -> list[Path]:
        """Return the path of every recording, after a download where there is none.

        Raises:
            UserError: if some are missing (every digit and speaker has equally many), or are not the published ones.
        """
        folder = self.data_dir / "fsdd" / "recordings"
        if not (folder.is_dir() and any(folder.iterdir())):
            folder = self.write_dir / "fsdd" / "recordings"
            with suppress(OSError):
                folder.rmdir()  # an empty one
            download(ARCHIVE, self.write_dir, "fsdd/recordings", lambda archive: self._unpacked(archive, folder))
        found = {path.name: path for path in sorted(folder.glob("*.wav")) if _NAME.fullmatch(path.name)}
        speakers = SPEAKERS if self.verify else sorted({name.split("_")[1] for name in found})
        most = RECORDED if self.verify else 1 + max(len(TEST_INDICES), *map(_index, found))  # one is for training
        wanted = (
            f"{d}_{speaker}_{i}.wav" for d in range(10) for speaker in speakers for i in range(most)
        )  # any number
        there = sum(
            _speaker(path) in speakers and _index(name) < most and name.endswith(f"_{_index(name)}.wav")
            for name, path in found.items()
        )
        where = f"Copy the folder recordings of {HOME} to {folder}, or move it away, and it is downloaded."
        if missing := 10 * len(speakers) * most - there:
            first = list(islice((name for name in wanted if name not in found), 5))
            named = ", ".join(first) + (", …" if missing > 5 else "")
            raise UserError(f"datamodule=fsdd: {missing:,} recordings are missing in {folder}: {named}.\n{where}")
        if self.verify and _sum((name, read_data_file(path, LARGEST_FILE)) for name, path in found.items()) != SUM:
            raise UserError(
                f"datamodule=fsdd: the recordings in {folder} are not the published ones of version 1.0.10.\n{where} "
                "datamodule.verify=false takes them as they are"
            )
        return list(found.values())

    def _unpacked(self, archive: Path, folder: Path) -> bool:
        """Put the recordings of an archive into their folder, if they are the published ones, and remove it."""
        found: dict[str, bytes] = {}
        left = LARGEST_ARCHIVE
        try:
            with open_data_file(archive) as packed, tarfile.open(fileobj=packed, mode="r:gz") as tar:
                for member in tar:
                    inside, _, name = member.name.rpartition("/")
                    left -= 512 + member.size
                    if left < 0:
                        return False
                    if member.isreg() and inside.endswith("/recordings") and _NAME.fullmatch(name):
                        file = tar.extractfile(member)
                        found[name] = file.read() if file else b""
        except (tarfile.TarError, EOFError, zlib.error, OSError, UserError):
            return False
        if not found or (self.verify and _sum(sorted(found.items())) != SUM):
            return False
        partial = folder.with_name(".recordings")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, contents in found.items():
            (partial / name).write_bytes(contents)
        os.replace(partial, folder)
        archive.unlink()
        return True


def _sum(recordings: Iterable[tuple[str, bytes]]) -> str:
    total = hashlib.sha256()
    for name, contents in recordings:
        total.update(name.encode())
        total.update(contents)
    return total.hexdigest()


def _index(name: str) -> int:
    return int(name.removesuffix(".wav").rpartition("_")[2])


def _speaker(path: Path) -> str:
    return path.name.split("_")[1]


def _digit_and_speaker(path: Path) -> str:
    return path.name.rpartition("_")[0]
