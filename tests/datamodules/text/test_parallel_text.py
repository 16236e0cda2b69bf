import logging
import re

import pytest

from src.cli.predict import predict
from src.core.errors import UserError
from src.datamodules.text.parallel_text import ParallelText
from src.training.run import run

PAIRS = [(f"Number {i} is {i * i}.", f"Zahl {i} ist {i * i}.") for i in range(50)]


@pytest.fixture
def tsv(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + "".join(f"{a}\t{b}\r\n" for a, b in PAIRS).encode())
    return path


@pytest.fixture
def two_files(tmp_path):
    for name, side in (("en", 0), ("de", 1)):
        (tmp_path / f"train.{name}").write_text("\n".join(pair[side] for pair in PAIRS) + "\n")
    return {"path": tmp_path / "train.en", "target_path": tmp_path / "train.de"}


@pytest.mark.parametrize("tokens", ["characters", "words"])
def test_one_file_and_two_files_give_the_same_pairs(tsv, two_files, tokens):
    read = []
    for given in ({"path": tsv}, two_files):
        data = ParallelText(**given, tokens=tokens)
        data.setup()
        source, target = data.vocabularies
        pairs = []
        for name in ("train", "val", "test"):
            batch = data.split(name)
            for row, asked in zip(batch.source.tolist(), batch.target.tolist(), strict=True):
                assert asked[0] == data.spec.start_id and data.spec.end_id in asked
                pairs.append((source.decode(row), target.decode(asked[1:])))
        read.append(pairs)
    space = (lambda text: text.replace(".", " .")) if tokens == "words" else str
    assert read[0] == read[1]
    known = {(space(a), space(b)) for a, b in PAIRS}
    assert len(set(read[0]) & known) >= 40  # the rest has a number that training lacks
    assert len(read[0]) == 50


def test_long_pairs_are_dropped_and_counted(tsv, caplog):
    with caplog.at_level(logging.WARNING):
        data = ParallelText(tsv, tokens="characters", max_length=16)
        data.setup()
    pairs = [pair for pair in PAIRS if all(len(text) <= 16 for text in pair)]
    assert sum(len(data.split(name).source) for name in ("train", "val", "test")) == len(pairs) < 50
    assert f"{50 - len(pairs)} of 50 pairs have more than 16 tokens and are dropped" in caplog.text
    with pytest.raises(UserError, match=r"every pair has more tokens than datamodule\.max_length=3"):
        ParallelText(tsv, tokens="characters", max_length=3).setup()


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        ("", None, "there are no pairs"),
        ("a\tb\nc d\n", None, "row 2: 1 tab-separated columns where 2 are expected"),
        ("a\tb\nc\t \n", None, "row 2: one side of this pair is empty"),
        ("a\nb\n", "x\n", "has 2 lines and .*b.txt has 1: each line must be"),
        ("a\nb\n", "x\n\n\ny\n", "has 2 lines and .*b.txt has 4"),
        ("a\n\nb\n", "x\ny\nz\n", "a.txt, row 2: one side"),
        ("a\nb\nc\n", "x\n\nz\n", "b.txt, row 2: one side"),
    ],
)
def test_error_names_file_and_row_of_an_invalid_pair(content, target, message, tmp_path):
    (tmp_path / "a.txt").write_text(content)
    if target is not None:
        (tmp_path / "b.txt").write_text(target)
    with pytest.raises(UserError, match=re.escape(str(tmp_path)) + f".*{message}"):
        ParallelText(tmp_path / "a.txt", None if target is None else tmp_path / "b.txt").setup()


def test_predict_translates_and_rejects_long_texts(fast, tsv):
    result = run(fast("model=transformer", "datamodule=parallel_text", f"datamodule.path={tsv}"), verbose=False)
    assert isinstance(predict(result.folder, ["Number 3 is 9."])[0]["prediction"], str)
    with pytest.raises(UserError, match="12 tokens; the longest text of training has 5"):
        predict(result.folder, ["a b c d e f g h i j k l"])
    with pytest.raises(UserError, match="the input is empty"):
        predict(result.folder, [" "])
    assert len(predict(result.folder, [str(tsv), "Number 4 is 16."])) == 51  # a file, its first column


def test_pairs_longer_than_those_of_training_are_dropped(tsv, tmp_path, caplog):
    trained, other = ParallelText(tsv), ParallelText(tmp_path / "other.tsv", val_fraction=0.3, test_fraction=0.3)
    trained.setup()
    rows = [f"Number {i} is 9.\tZahl {i} ist 9." for i in range(9)] + ["Number 3 is 9.\tDie Zahl drei ist wohl neun."]
    other.path.write_text("\n".join(rows))
    other.load_state_dict(trained.state_dict())
    with caplog.at_level(logging.WARNING):
        other.setup()
    assert "1 of 10 pairs have more than 5 tokens and are dropped" in caplog.text and other.spec == trained.spec
