"""Data files that are no regular files, too large, or in a format that is not read."""

import gzip
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.core.errors import UserError
from src.datamodules.io.delimited_text import read_records, read_text
from src.datamodules.io.downloads import PublicFile, download
from src.datamodules.io.image_files import open_image, size_and_channels
from src.datamodules.io.wav_files import read_wave
from src.datamodules.tokenizers.characters import Vocabulary
from src.datamodules.tokenizers.memory_mapped import pieces
from src.datamodules.vision.public_image_sets import CIFAR10

READERS: dict[str, Callable[[Path], Any]] = {
    "text": read_text,
    "table": lambda path: read_records(path, ("a",)),
    "pieces": lambda path: list(pieces(path)),
    "image": lambda path: open_image(str(path)),
    "size of an image": lambda path: size_and_channels(str(path)),
    "sound": read_wave,
    "public file": lambda path: PublicFile("https://example.invalid/a", path.name).read(path.parent),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_is_refused(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png"):
        READERS[kind](tmp_path / "a.png")


@pytest.mark.parametrize("kind", READERS)
def test_a_file_of_a_gigabyte_of_nothing_is_refused(tmp_path: Path, kind: str) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**30)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"a\.png"):
        READERS[kind](tmp_path / "a.png")
    assert time.monotonic() - began < 20  # against a hang


@pytest.mark.parametrize("ending", ["eps", "pcx", "tga", "ico"])
def test_images_of_other_formats_are_refused_whatever_their_name(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match="no image"):
        open_image(str(tmp_path / "a.png"))


def test_a_bomb_is_unpacked_up_to_a_limit(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.gz", "wb", compresslevel=1) as file:
        for _ in range(513):
            file.write(bytes(2**20))
    with pytest.raises(UserError, match="unpacks to more"):
        PublicFile("https://example.invalid/a", "a.gz").read(tmp_path)


def test_a_download_is_not_written_through_links(tmp_path: Path) -> None:
    victim = tmp_path / "thesis"
    victim.write_text("precious")
    data = tmp_path / "data"
    data.mkdir()
    for name in (".download.lock", ".a.partial"):
        (data / name).symlink_to(victim)
    with pytest.raises(UserError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/a", data / "a", lambda partial: True)
    assert victim.read_text() == "precious"


def test_public_files_are_found_in_both_folders_and_written_to_one(tmp_path: Path) -> None:
    file = PublicFile("http://127.0.0.1:9/a", "sets/a")
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    with pytest.raises(UserError, match="cannot be downloaded"):
        file.read(theirs, write_dir=own)
    assert not theirs.exists()
    (own / "sets" / "a").write_bytes(b"1")
    assert file.read(theirs, write_dir=own) == b"1"
    (theirs / "sets").mkdir(parents=True)
    (theirs / "sets" / "a").write_bytes(b"2")
    assert file.read(theirs, write_dir=own) == b"2"


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "batch",
    [
        Runs(print, "code ran"),
        {b"data": np.array([print], dtype=object), b"labels": [1]},
        {b"data": np.zeros(3072, dtype="V1"), b"labels": [1]},
        {b"data": Runs(np.ndarray, (10**11,), "u1"), b"labels": [1]},
        {b"data": np.zeros((1, 3072), dtype=np.uint8), b"labels": ["x"]},
        {b"data": Runs(bytearray, 10**10), b"labels": [1]},
    ],
)
def test_pickles_of_cifar_hold_integers_only(capfd: pytest.CaptureFixture[str], batch: Any) -> None:
    with pytest.raises(UserError, match="no batch of CIFAR-10"):
        CIFAR10(verify=False)._arrays(pickle.dumps(batch, 2), "here")
    assert "code ran" not in capfd.readouterr().out


def test_a_vocabulary_of_another_type_is_refused() -> None:
    with pytest.raises(UserError, match="damaged"):
        Vocabulary.from_plain({"characters": 5})
