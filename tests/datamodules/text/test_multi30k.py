"""Multi30k: the published pairs, split and test sets; nothing is left out of what is compared with others."""

import gzip
import os
from pathlib import Path

import pytest

from src import ROOT
from src.core.errors import UserError
from src.datamodules.text.multi30k import LINES, Multi30k, file_of
from tests.miniatures import write_multi30k

REAL = Path(os.environ.get("GRIDLIGHT_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def small(tmp_path):
    write_multi30k(tmp_path / "multi30k")

    def make(**changes) -> Multi30k:
        return Multi30k(**{"tokens": "words", "verify": False, "data_dir": tmp_path, **changes})

    return make


def test_languages_determine_source_and_target(small):
    there, back = small(), small(languages=["de", "en"])
    assert there.pairs()["test"][0] == ("A man, 70 dogs and a ball.", "Ein Mann, 70 Hunde und ein Ball.")
    assert [pair[::-1] for pair in there.pairs()["val"]] == back.pairs()["val"]
    assert {name: len(part) for name, part in there.pairs().items()} == {"train": 60, "val": 8, "test": 8}


def test_long_pairs_are_dropped_from_training_only(small, tmp_path):

    def add_long(part: str) -> None:
        for language in ("en", "de"):
            file = tmp_path / "multi30k" / f"{part}.{language}.gz"
            lines = gzip.decompress(file.read_bytes()).decode() + "word " * 30 + "\n"
            file.write_bytes(gzip.compress(lines.encode()))

    add_long("train")
    data = small(max_length=20)
    data.setup()
    assert len(data.split("train").source) == 60
    add_long("test_2016_flickr")
    with pytest.raises(
        UserError, match=r"pair 9 of the test split has more than 20 tokens.*larger datamodule.max_length"
    ):
        small(max_length=20).setup()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (gzip.compress(b"one line\n"), "train.de.gz has 1 lines|has 60 lines"),
        (b"\x1f\x8b broken", "train.de.gz: this file is damaged"),
        (gzip.compress(b"\xff\xfe" * 60), r"train.de.gz: this file is not UTF-8 text \(byte 0\)"),
        (gzip.compress(b"x\n\n" + b"x\n" * 58), "train.de.gz, row 2: one side of this pair is empty"),
        (b"", "has 60 lines and .*train.de.gz has 1"),
    ],
    # gzip writes the time into its bytes: as names they would differ from worker to worker.
    ids=["one line", "broken gzip", "no text", "an empty side", "empty"],
)
def test_error_names_an_invalid_file(small, tmp_path, contents, message):
    (tmp_path / "multi30k" / "train.de.gz").write_bytes(contents)
    with pytest.raises(UserError, match=message):
        small().setup()


def test_files_with_other_contents_are_rejected(small, tmp_path):
    with pytest.raises(UserError, match=r"train.en.gz: .*differ from those published"):
        small(verify=True).setup()
    for language in ("fr", "cs"):  # of which the sum of the unpacked contents is not known
        (tmp_path / "multi30k" / f"train.{language}").write_text("un\n" * 100)
    with pytest.raises(UserError, match=r"train.fr: .* differ from those published"):
        small(verify=True, languages=["fr", "cs"]).setup()


def test_files_of_a_clone_of_the_repository_are_used(small, tmp_path):
    (tmp_path / "dataset" / "data" / "task1").mkdir(parents=True)
    (tmp_path / "multi30k").rename(tmp_path / "dataset" / "data" / "task1" / "raw")
    small().setup()


@pytest.mark.skipif(not (REAL / "multi30k").is_dir(), reason="the real files are not here")
@pytest.mark.parametrize("test", ["2016_flickr", "2017_flickr"])
def test_real_files_equal_the_published_ones(test):
    data = Multi30k(test=test, data_dir=REAL)
    pairs = data.pairs()
    assert {name: len(part) for name, part in pairs.items()} == {
        "train": LINES["train"],
        "val": LINES["val"],
        "test": LINES[test],
    }
    assert pairs["train"][0][0] == "Two young, White males are outside near many bushes."
    assert file_of(test, "de").url.endswith(f"/raw/test_{test}.de.gz")
