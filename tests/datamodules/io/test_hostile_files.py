"""Data files that are no regular files, too large, or in a format that is not read."""

import gzip
import os
import pickle
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from src.core.errors import UserError
from src.datamodules.class_labels import classes_of
from src.datamodules.io import image_files
from src.datamodules.io.delimited_text import iterate_rows, read_columns, read_lines, read_text
from src.datamodules.io.downloads import PublicFile, download
from src.datamodules.io.image_files import _PixelBudget, open_image, read_image, size_and_channels
from src.datamodules.io.labelled_folder import labelled_files
from src.datamodules.io.numeric_table import read_rows
from src.datamodules.io.sound_files import read_wave
from src.datamodules.synthetic.shapes import Shapes
from src.datamodules.tokenizers.characters import Characters
from src.datamodules.tokenizers.memory_mapped import read_chunks
from src.datamodules.vision.public_image_sets import read_cifar_batch

READERS: dict[str, Callable[[Path], Any]] = {
    "text": read_text,
    "table": lambda path: read_columns(path, ("a",)),
    "chunks": lambda path: list(read_chunks(path)),
    "image": lambda path: open_image(str(path)),
    "size of an image": lambda path: size_and_channels(str(path)),
    "sound": read_wave,
    "public file": lambda path: PublicFile("https://example.invalid/a", path.name).read(path.parent),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
@pytest.mark.parametrize("kind", READERS)
def test_pipes_are_rejected(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png"):
        READERS[kind](tmp_path / "a.png")


@pytest.mark.parametrize("kind", READERS)
def test_sparse_files_are_rejected(tmp_path: Path, kind: str) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**30)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"a\.png"):
        READERS[kind](tmp_path / "a.png")
    assert time.monotonic() - began < 20  # against a hang


@pytest.mark.parametrize("kind", ["image", "size of an image", "image of shapes"])
@pytest.mark.parametrize("height", [8193, 22_000])  # the latter is refused by Pillow itself
def test_each_reader_limits_the_number_of_pixels(tmp_path: Path, kind: str, height: int) -> None:
    Image.new("1", (8192, height)).save(tmp_path / "a.png")
    read = READERS.get(kind) or (lambda path: Shapes(side=8).encode([str(path)]))
    with pytest.raises(UserError, match=r"a\.png: this image has more than 67,108,864 pixels"):
        read(tmp_path / "a.png")


def test_largest_allowed_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (200, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr("src.datamodules.io.image_files.MAX_PIXELS", 20_000)
    assert open_image(str(tmp_path / "a.png")).size == (200, 100)


@pytest.mark.parametrize(("rate", "most", "message"), [(None, 999, "1,000 samples"), (16_000, 1_999, "2,000 samples")])
def test_a_sound_has_a_limited_length(
    tmp_path: Path, rate: int | None, most: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wavfile.write(tmp_path / "a.wav", 8_000, np.zeros((500, 2) if rate is None else 1000, np.int16))
    read_wave(tmp_path / "a.wav", rate)
    monkeypatch.setattr("src.datamodules.io.sound_files.MAX_SAMPLES", most)
    with pytest.raises(UserError, match=rf"a\.wav: {message}; a sound has at most {most:,}"):
        read_wave(tmp_path / "a.wav", rate)


TEXT = "src.datamodules.io.delimited_text."


@pytest.mark.parametrize(
    ("limit", "name", "content", "message"),
    [
        ("MAX_LINES", "a.txt", "a\nb\nc", "more than 2 lines"),
        ("MAX_LINES", "a.jsonl", '{"a": 1}\n' * 3, "more than 2 lines"),
        ("MAX_COLUMNS", "a.csv", "a,b,c\n1,2,3\n", "the header has 3 columns"),
        ("MAX_COLUMNS", "a.jsonl", '{"a": 1}\n{"a": 1, "b": 2}\n{"a": 1, "c": 3}', "row 3: more than 2 columns"),
        ("MAX_CELLS", "a.csv", "a\n1\n2\n3\n", "more than 2 cells"),
        ("MAX_CELLS", "a.jsonl", '{"a": 1, "b": 2}\n{"a": 1}', "more than 2 cells"),
    ],
)
def test_tables_and_lines_have_limits(
    limit: str, name: str, content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(content)
    read: Callable[[Path], Any] = read_lines if name == "a.txt" else READERS["table"]
    read(tmp_path / name)
    monkeypatch.setattr(TEXT + limit, 2)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_a_header_of_many_columns_is_read_in_linear_time(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(100_000)) + "\n")
    start = time.process_time()
    with pytest.raises(UserError, match="no rows"):
        read_columns(tmp_path / "a.csv", ("c1",))
    assert time.process_time() - start < 5, "in quadratic time it takes minutes"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "1.wav").write_bytes(b"")
    return tmp_path / "data"


def found(folder: Path, pattern: str | None = None) -> list[str]:
    return [path.relative_to(folder).as_posix() for path, _ in labelled_files(folder, pattern, (".wav",), "sound")]


@pytest.mark.parametrize("path", ["/", "link", "back"])
def test_root_of_the_file_system_is_rejected(data: Path, path: str) -> None:
    (data / "link").symlink_to("/")
    (data / "back").symlink_to(data.parent.relative_to("/").as_posix().count("/") * "../" + "../..")
    with pytest.raises(UserError, match="root of the file system"):
        found(data / path)
    assert found(data) == ["a/1.wav", "b/1.wav"]


def test_broken_links_are_ignored(data: Path) -> None:
    (data / "a" / "0.wav").symlink_to("0.wav")
    (data / "b" / "0.wav").symlink_to("missing.wav")
    assert found(data) == ["a/1.wav", "b/1.wav"]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MAX_ENTRIES", "more than 2 files and folders"),
        ("MAX_DEPTH", "folders are nested more than 2 deep"),
        ("MAX_LINKS", "more than 2 links"),
    ],
)
def test_search_of_a_data_folder_has_limits(
    limit: str, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "a" / "c" / "d" / "e").mkdir(parents=True)
    for name in "123":
        (tmp_path / name).mkdir()
        (data / "b" / name).symlink_to(tmp_path / name)
    assert found(data) == ["a/1.wav", "b/1.wav"]
    monkeypatch.setattr(f"src.datamodules.io.labelled_folder.{limit}", 2)
    with pytest.raises(UserError, match=message):
        found(data)


def test_number_of_wildcards_is_limited(data: Path) -> None:
    assert found(data, "{label}/*.wav") == ["a/1.wav", "b/1.wav"]
    assert found(data, "{label}/****************.wav") == ["a/1.wav", "b/1.wav"]
    with pytest.raises(UserError, match="at most 3 of"):
        found(data, "{label}/*x*x*x*.wav")


def test_classes_with_too_many_digits_are_names() -> None:
    assert classes_of(["9" * 5000, "10"], "x") == ("10", "9" * 5000)
    assert classes_of(["9", "10"], "x") == ("9", "10")


@pytest.mark.parametrize("kind", ["text", "table", "chunks"])
def test_sparse_end_of_a_text_is_rejected(tmp_path: Path, kind: str) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        file.write(b"a,b\n" + b"1,2\n" * 50_000)
        file.truncate(2**31)
    began = time.monotonic()
    with pytest.raises(UserError, match="NUL"):
        READERS[kind](tmp_path / "a.csv")
    assert time.monotonic() - began < 20  # against a hang


def sparse_wave(path: Path, rate: int, size: int, data: bool = True) -> None:
    """Write a WAV file of zeros, in one chunk of samples or in countless empty chunks."""
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, 8)
    chunk = b"data" + struct.pack("<I", size) if data else b""
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + form + chunk)
        file.truncate(44 + size)


def test_only_the_used_part_of_a_sound_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.datamodules.io.sound_files.MAX_SAMPLES", 100_000)
    sparse_wave(tmp_path / "a.wav", 1000, 2**22)
    wave, rate = read_wave(tmp_path / "a.wav", 48_000, seconds=2.0)
    assert (len(wave), rate) == (96_000, 48_000)


def test_a_sound_without_samples_is_refused_quickly(tmp_path: Path) -> None:
    sparse_wave(tmp_path / "a.wav", 1000, 2**28, data=False)
    with pytest.raises(UserError, match="not a readable sound file"):
        read_wave(tmp_path / "a.wav")


@pytest.mark.parametrize("read", [lambda path: open_image(path), lambda path: read_image(path, (1, 8, 8))])
def test_number_of_pixels_of_an_image_is_limited(tmp_path: Path, read: Callable[[str], Any]) -> None:
    Image.new("1", (15_000, 10_000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 2**20
    with pytest.raises(UserError, match=r"a\.png: this image has more than 67,108,864 pixels"):
        read(str(tmp_path / "a.png"))


def test_scans_of_a_sequential_jpeg_are_limited(tmp_path: Path) -> None:
    image = tmp_path / "scans.jpg"
    Image.new("L", (64, 64)).save(image)
    contents = image.read_bytes()
    size, scan = contents.index(b"\xff\xc0"), contents.index(b"\xff\xda")
    large = contents[: size + 5] + struct.pack(">HH", 8192, 8192) + contents[size + 9 : scan]
    image.write_bytes(large + contents[scan:-2] * 40 + b"\xff\xd9")
    with pytest.raises(UserError, match="40 scans"):
        open_image(str(image))


@pytest.mark.parametrize("start", [b"GIF89a", b"RIFF\xff\xff\xff\x7fWEBPVP8X", b"\xff\xd8\xff", b"P6\n"])
def test_a_sparse_image_is_refused_at_once(tmp_path: Path, start: bytes) -> None:
    image = tmp_path / "sparse"
    image.write_bytes(start)
    os.truncate(image, 2**40)
    with pytest.raises(UserError, match="512 MiB"):
        size_and_channels(str(image))


def test_an_image_of_many_parts_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "parts.gif"
    image.write_bytes(b"GIF89a\x08\0\x08\0\0\0\0" + bytes(10**7))  # skipped byte by byte
    started = time.monotonic()
    with pytest.raises(UserError, match="not a readable image"):
        size_and_channels(str(image))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("text", [b"#\n" * 2000, b" " * 2**24])
def test_a_plain_ppm_that_takes_long_is_refused(tmp_path: Path, text: bytes) -> None:
    image = tmp_path / "plain.ppm"
    image.write_bytes(b"P3 1 1 255\n" + text + b"1 2 3\n")
    with pytest.raises(UserError, match="too long to decode"):
        open_image(str(image))
    image.write_bytes(b"P3 1 1 255\n# a comment\n1 2 3\n")
    assert open_image(str(image)).getpixel((0, 0)) == (1, 2, 3)


def test_number_of_scans_of_a_jpeg_is_limited(tmp_path: Path) -> None:
    Image.new("L", (4000, 4000), 100).save(tmp_path / "a.jpg", progressive=True)
    assert open_image(str(tmp_path / "a.jpg")).size == (4000, 4000)
    contents = (tmp_path / "a.jpg").read_bytes()
    scan = contents[contents.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(contents[:-2] + scan * 200 + contents[-2:])
    with pytest.raises(UserError, match="scans"):
        open_image(str(tmp_path / "a.jpg"))


def test_concurrently_decoded_images_share_a_pixel_limit() -> None:
    budget = _PixelBudget(10)
    entered = threading.Event()

    def wait_and_enter() -> None:
        with budget.reserve(100):  # more than all of it counts as all
            entered.set()

    with budget.reserve(1):
        thread = threading.Thread(target=wait_and_enter)
        thread.start()
        assert not entered.wait(0.1)
    thread.join(60)
    assert entered.is_set()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_conversion_in_strips_equals_conversion_at_once(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 2**16, (13, 7), dtype=np.uint16)
    image = Image.fromarray(noise) if mode == "I;16" else Image.fromarray((noise >> 8).astype(np.uint8)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray((noise & 255).astype(np.uint8)))
    image.save(tmp_path / "a.png", **({"transparency": 3} if mode == "P" else {}))
    whole = np.asarray(open_image(str(tmp_path / "a.png")))
    monkeypatch.setattr(image_files, "STRIP_PIXELS", 20)
    assert np.array_equal(np.asarray(open_image(str(tmp_path / "a.png"))), whole)


def test_number_of_followed_links_is_limited(tmp_path: Path) -> None:
    for label, other in (("a", "b"), ("b", "a")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").touch()
        for number in range(3):
            (tmp_path / label / f"link{number}").symlink_to(f"../{other}")
    with pytest.raises(UserError, match="folders are nested more than"):
        labelled_files(tmp_path, None, (".png",), "an image")


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_class_names_in_other_encodings_become_printable(tmp_path: Path) -> None:
    for label in (b"caf\xe9", b"tea"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + label)
        open(os.fsencode(tmp_path) + b"/" + label + b"/x.png", "wb").close()
    assert [label for _, label in labelled_files(tmp_path, None, (".png",), "an image")] == ["caf\\udce9", "tea"]


def test_lone_surrogates_in_json_lines_become_printable(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800", "\\udfff": 1}\n')
    assert list(iterate_rows(tmp_path / "a.jsonl", ("text",))) == [(1, {"text": "a\\ud800", "\\udfff": "1"})]


@pytest.mark.parametrize("ending", ["eps", "pcx", "tga", "ico"])
def test_other_image_formats_are_rejected_by_content(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match="not a readable image"):
        open_image(str(tmp_path / "a.png"))


def test_decompressed_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.datamodules.io.downloads.MAX_BYTES", 2**20)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(2**20 + 1)))
    with pytest.raises(UserError, match="unpacks to more"):
        PublicFile("https://example.invalid/a", "a.gz").read(tmp_path)


def test_download_is_not_written_through_links(tmp_path: Path) -> None:
    victim = tmp_path / "thesis"
    victim.write_text("precious")
    data = tmp_path / "data"
    data.mkdir()
    for name in (".download.lock", ".a.partial"):
        (data / name).symlink_to(victim)
    with pytest.raises(UserError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/a", data, "a", lambda partial: True)
    assert victim.read_text() == "precious"


def test_download_is_not_written_into_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(tmp_path / "thesis")
    with pytest.raises(UserError, match=r"data/mnist: this is a link"):
        download("http://127.0.0.1:9/a", tmp_path / "data", "mnist/a", lambda partial: True)
    assert not list((tmp_path / "thesis").iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
def test_download_replaces_pipes(tmp_path: Path) -> None:
    for name in (".download.lock", ".a.partial"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/a", tmp_path, "a", lambda partial: True)
    assert not (tmp_path / ".a.partial").exists()


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
    with pytest.raises(UserError, match="not a batch of CIFAR-10"):
        read_cifar_batch(pickle.dumps(batch, 2), "here")
    assert "code ran" not in capfd.readouterr().out


def test_vocabulary_of_another_type_is_rejected() -> None:
    with pytest.raises(UserError, match="damaged"):
        Characters.from_plain({"characters": 5})


@pytest.mark.parametrize(("name", "line"), [("a.csv", "1,2\n"), ("a.jsonl", "{}\n")])
def test_a_table_that_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str
) -> None:
    monkeypatch.setattr("src.datamodules.io.delimited_text.ROWS_PER_CHECK", 10)
    file = tmp_path / name
    file.write_text(("a,b\n" if name == "a.csv" else "") + line * 1000)
    assert len(list(iterate_rows(file, ()))) == 1000
    monkeypatch.setattr("src.datamodules.io.delimited_text.ROW_BYTES", 2**29)
    monkeypatch.setattr("src.core.resources.available_memory", lambda: 2**30)
    with pytest.raises(UserError, match="memory"):
        list(iterate_rows(file, ()))
    if name == "a.csv":
        with pytest.raises(UserError, match="memory"):
            read_rows([str(file)], 2)


def test_long_names_are_compared_with_a_pattern_in_linear_time(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}{'a' * 240}.png").touch()
    started = time.monotonic()
    with pytest.raises(UserError, match="none of the 300 files"):
        labelled_files(tmp_path, "*a{label}a*b", (".png",), "an image")
    assert time.monotonic() - started < 2
    for name in ("x[1]?_Cat_7.PNG", "x[2]?_dog_8.png"):
        (tmp_path / name).touch()
    found = labelled_files(tmp_path, "x[*]?_{label}_*.png", (".png",), "an image")
    assert [label for _, label in found] == ["Cat", "dog"]
