"""Data files of someone else: bombs, pipes, links, and damaged files of each kind."""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from src import train
from tests.conftest import USERS_FILES
from tests.security.conftest import SMALL
from tests.security.harness import Case
from tests.security.hostile import IN_PLACE_OF_A_FILE, STRINGS, put

KINDS = {
    "table": ["model=mlp"],
    "text": ["model=lstm"],
    "text_classification": ["model=lstm"],
    "parallel_text": ["model=transformer"],
    "image_folder": ["model=mlp"],
    "audio_folder": ["model=mlp"],
    "series": ["model=gru"],
}
SIZES = [argument for argument in SMALL if not argument.startswith(("model", "datamodule"))]


def _png(width: int, height: int) -> bytes:
    """Return a PNG that declares a size, with next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def _wav(rate: int, channels: int, bits: int, size: int) -> bytes:
    block = max(channels * bits // 8, 1)
    form = struct.pack("<HHIIHH", 1, channels & 0xFFFF, rate, (rate * block) & 0xFFFFFFFF, block & 0xFFFF, bits)
    return (
        b"RIFF"
        + struct.pack("<I", 36)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + b"\0" * 64
    )


CONTENTS: dict[str, dict[str, bytes]] = {
    "table": {
        "one cell": b"x" * 1_000_000,
        "many columns": b",".join(b"c%d" % n for n in range(50_000)) + b"\n" + b",".join([b"1"] * 50_000) + b"\n",
        "quotes": b'age,bought\n"1,yes\n' * 50,
        "infinite": b"age,bought\n" + b"inf,yes\nnan,no\n1e400,yes\n" * 20,
        "names": b"\x1b[2J,=1+1,bought\n" + b"\x1b[2Ja,<script>,yes\nb,c,no\n" * 30,
        "nulls": b"age,bought\n1\0,yes\n" * 30,
        "ragged": b"age,bought\n1\n1,2,3,4\n" * 20,
        "same names": b"bought,bought\nyes,no\n" * 20,
    },
    "text_classification": {"labels": b"text,label\n" + b"a film,\x1b[2J\nb film,=1+1\n" * 30},
    "text": {
        "controls": ("\x1b[2J\u202e=1+1 ${oc.env:AWS_SECRET_ACCESS_KEY} " * 200).encode(),
        "one line": b"a" * 300_000,
    },
    "parallel_text": {"tabs": b"\t\t\t\n" * 60, "one side": b"a\n" * 60},
    "image_folder": {
        "bomb": _png(60_000, 60_000),
        "largest": _png(2**31 - 1, 2**31 - 1),
        "nothing": _png(0, 0),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(zzhostile) run\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1:9/'/></svg>",
        "truncated": _png(12, 10)[:40],
    },
    "audio_folder": {
        "bomb": _wav(8000, 65535, 32, 2**32 - 1),
        "no channels": _wav(8000, 0, 16, 64),
        "no rate": _wav(0, 1, 16, 64),
        "highest rate": _wav(2**32 - 1, 1, 16, 64),
        "bits": _wav(8000, 1, 7, 64),
        "truncated": _wav(8000, 1, 16, 64)[:30],
    },
    "series": {
        "long number": b"x\n" + b"9" * 5000 + b"\n",
        "text": b"x\n" + b"=1+1\n" * 600,
        "names": b"\x1b[2J\n" + b"1\n2\n" * 300,
    },
}


def opened(case: Case, kind: str, change: Callable[[Path], None]) -> list[str]:
    """Train on the files of a kind after one of them changed, and return what went wrong."""
    folder = case.outputs
    folder.mkdir()
    argv = USERS_FILES[kind](folder)
    file = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    change(file)
    small = [argument for argument in SIZES if argument.split("=")[0] not in ("model", "datamodule")]
    command = [f"datamodule={kind}", *KINDS[kind], *argv, *small, f"paths.outputs={case.out}/outputs"]
    return case.open(train.main, command, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_data_raise_no_alarm(new_case: Callable[..., Case], kind: str) -> None:
    assert opened(new_case(None), kind, lambda file: None) == []


@pytest.mark.parametrize(
    ("kind", "contents"),
    [
        pytest.param(kind, name, marks=() if name in ("bomb", "names", "quotes", "controls") else pytest.mark.slow)
        for kind, cases in CONTENTS.items()
        for name in cases
    ],
)
def test_hostile_contents(new_case: Callable[..., Case], kind: str, contents: str) -> None:
    assert opened(new_case(None), kind, lambda file: file.write_bytes(CONTENTS[kind][contents]) and None) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(p, marks=() if p == "pipe" else pytest.mark.slow)
        for p in IN_PLACE_OF_A_FILE
        if p != "sparse_gigabyte"
    ],
)
def test_in_place_of_a_data_file(new_case: Callable[..., Case], kind: str, place: str) -> None:
    case = new_case(None)
    assert opened(case, kind, lambda file: put(place, file, case.victim)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STRINGS if name not in ("surrogate", "null", "long")])
def test_names_of_classes(new_case: Callable[..., Case], name: str) -> None:
    """The attacker names a folder of images, and its name is printed, drawn, and recorded."""

    def rename(file: Path) -> None:
        file.parent.rename(file.parent.parent / STRINGS[name].replace("/", "\u2215").replace("{victim}", "")[:80])

    case = new_case(None)
    assert opened(case, "image_folder", rename) == []


@pytest.mark.slow
@pytest.mark.parametrize("packed", ("gzip", "zip"))
def test_packed_bombs(new_case: Callable[..., Case], packed: str) -> None:
    def bomb(file: Path) -> None:
        if packed == "gzip":
            file.write_bytes(gzip.compress(b"1,yes\n" * 50_000_000, 9))
        else:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("../../../victim/zzhostile", b"0" * 100_000_000)

    assert opened(new_case(None), "table", bomb) == []
