import json
from collections import Counter

import pytest
import torch

from src.cli.predict import predict
from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.datamodules.text.text_classification import TextClassification
from src.datamodules.tokenizers.vocabulary import PADDING, UNKNOWN
from src.training.run import run


def write(path, rows):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def rows(start, count, labels=("no", "yes", "yes")):
    return [(f"text number {i}", labels[i % len(labels)]) for i in range(start, start + count)]


def texts_of(data, split):
    return sorted(data.vocabulary.decode(row) for row in data.split(split).x.tolist())


def test_drawn_splits_are_stratified(tmp_path):
    data = TextClassification(write(tmp_path / "a.jsonl", rows(0, 300)), min_frequency=1, val_fraction=0.2)
    counts = {name: Counter(data.split(name).y.tolist()) for name in ("train", "val", "test")}
    assert counts == {"train": {0: 65, 1: 130}, "val": {0: 20, 1: 40}, "test": {0: 15, 1: 30}}
    assert data.spec.class_names == ("no", "yes") and data.spec.output_shape == (2,)


def test_splits_with_their_own_file_are_read_from_it(tmp_path):
    files = {
        name: write(tmp_path / f"{name}.jsonl", rows(100 * i, 30)) for i, name in enumerate(("path", "val", "test"))
    }
    both = TextClassification(files["path"], val_path=files["val"], test_path=files["test"])
    assert [len(both.split(name).y) for name in ("train", "val", "test")] == [30, 30, 30]
    one = TextClassification(files["path"], test_path=files["test"], val_fraction=0.2, min_frequency=1)
    assert [len(one.split(name).y) for name in ("train", "val", "test")] == [24, 6, 30]
    assert one.example_inputs(2) == ["text number 200", "text number 201"]


def test_vocabulary_contains_the_frequent_words_of_training(tmp_path):
    train = write(tmp_path / "train.jsonl", [("one two two", "a"), ("two three", "b"), ("Three", "b")])
    test = write(tmp_path / "test.jsonl", [("four two", "a"), ("one", "b")])
    data = TextClassification(train, val_path=test, test_path=test, min_frequency=2, max_length=2)
    data.setup()
    assert set(data.vocabulary.tokens) == {"two", "three"}
    assert data.split("test").x.tolist() == [[UNKNOWN, data.vocabulary.encode("two")[0]], [UNKNOWN, PADDING]]
    assert data.split("train").x.shape == (3, 2), "the first max_length words"


def test_batches_are_padded_to_their_longest_text(tmp_path):
    data = TextClassification(write(tmp_path / "a.jsonl", rows(0, 100)), batch_size=4, max_length=50)
    assert {batch.x.size(1) for batch in data.loader("train")} == {3}


def test_numeric_class_names_are_sorted_as_numbers(tmp_path):
    data = TextClassification(write(tmp_path / "a.jsonl", rows(0, 99, ("10", "9", "2"))))
    data.setup()
    assert data.classes == ("2", "9", "10")


def test_a_single_class_or_an_unknown_class_is_rejected(tmp_path):
    one = write(tmp_path / "one.jsonl", rows(0, 20, ("yes",)))
    two = write(tmp_path / "two.jsonl", rows(0, 20))
    with pytest.raises(UserError, match=r"one\.jsonl: training has one class only, 'yes'"):
        TextClassification(one).setup()
    other = write(tmp_path / "other.jsonl", rows(0, 20, ("yess",)))
    with pytest.raises(UserError, match=r"other\.jsonl has the class 'yess', which training lacks. Did you mean 'yes'"):
        TextClassification(two, test_path=other).setup()


def test_missing_files_are_rejected_with_the_config(tmp_path):
    for key in ("path", "val_path"):
        words = [f"datamodule.path={write(tmp_path / 'a.jsonl', rows(0, 20))}", f"datamodule.{key}=none.csv"]
        with pytest.raises(UserError, match=rf"datamodule\.{key}=/.*none\.csv: there is no such file"):
            check(compose(["model=lstm", "datamodule=text_classification", *words]))


@pytest.mark.parametrize("model", ["gru", "transformer"])
def test_padding_does_not_change_predictions(model, fast):
    """The same text alone and beside a longer one, from a checkpoint, in a file and on the command line."""
    result = run(fast(f"model={model}", "datamodule=text_classification"), verbose=False)
    short, long = "a good film", "a plain , plain film no . 3 that goes on and on"
    (alone,) = predict(result.folder, [short])
    beside = predict(result.folder, [short, long])[0]
    assert alone["prediction"] == beside["prediction"] and set(alone["probabilities"]) == {"good", "bad", "so-so"}
    assert list(alone["probabilities"].values()) == pytest.approx(list(beside["probabilities"].values()), abs=1e-6)


def test_encode_accepts_texts_and_files_of_texts(tmp_path):
    data = TextClassification(write(tmp_path / "a.jsonl", rows(0, 60)), min_frequency=1)
    data.setup()
    (tmp_path / "texts.txt").write_bytes(b"text number 3\r\n\nnumber\n")
    (tmp_path / "more.csv").write_text('id,text\n1,"text\nnumber"\n')
    expected = ["text number 3", "number", "text number", "text"]
    batch = data.encode([str(tmp_path / "texts.txt"), str(tmp_path / "more.csv"), "text"])
    assert [data.vocabulary.decode(row) for row in batch.x.tolist()] == expected and not batch.y.any()
    assert len(data.encode(["see notes.txt"]).x) == 1, "a text may end like a file"
    for given, message in (
        ("no.csv", "no such file"),
        (" ", "an empty input"),
        (str(tmp_path / "b.txt"), "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            data.encode([given])
    (tmp_path / "b.txt").write_text("\n")
    with pytest.raises(UserError, match="there is no text in this file"):
        data.encode([str(tmp_path / "b.txt")])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_negation_is_learned(model, tmp_path):
    """Order matters: "not good" and "good" have the same frequent words in opposite classes."""
    generator = torch.Generator().manual_seed(0)
    words = {"good": 1, "great": 1, "bad": 0, "poor": 0}
    chosen = [list(words)[i] for i in torch.randint(4, (600,), generator=generator).tolist()]
    negated = torch.randint(2, (600,), generator=generator).tolist()
    path = write(
        tmp_path / "a.jsonl",
        [
            (
                f"the {('film', 'book', 'play')[i % 3]} was {'not ' * no}{word} , they message",
                ("bad", "good")[words[word] ^ no],
            )
            for i, (word, no) in enumerate(zip(chosen, negated, strict=True))
        ],
    )
    words = [f"model={model}", "datamodule=text_classification", f"datamodule.path={path}", "logger=none"]
    result = run(
        [*words, f"paths.outputs={tmp_path}", "datamodule.default_epochs=15", "optimizer.lr=3e-3"], verbose=False
    )
    assert result.metrics["test/accuracy"] > 0.95
    assert [a["prediction"] for a in predict(result.folder, ["it was not bad", "it was bad"])] == ["good", "bad"]
