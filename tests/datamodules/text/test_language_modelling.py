import logging
import math
from collections import Counter

import pytest
import torch

from src.core.errors import UserError
from src.datamodules.text.language_modelling import Text
from src.models.recurrent import LSTM
from src.models.transformer import Transformer

BODY = "the quick brown fox jumps over the lazy dog\n" * 40


@pytest.fixture
def write(tmp_path):
    def to_file(content: str | bytes) -> Text:
        path = tmp_path / "book.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Text(path, context=10, val_fraction=0.1, test_fraction=0.2)

    return to_file


def test_each_character_is_predicted_once_in_text_order(write):
    data = write(BODY)
    parts = {"train": BODY[: len(BODY) * 7 // 10], "val": None, "test": BODY[len(BODY) * 8 // 10 :]}
    parts["val"] = BODY[len(parts["train"]) : len(BODY) - len(parts["test"])]
    for name, part in parts.items():
        windows = data.split(name)
        count = (len(part) - 1) // 10
        read = "".join(data.vocabulary.decode(row) for row in windows.inputs[0].tolist())
        asked = "".join(data.vocabulary.decode(row) for row in windows.targets.tolist())
        assert read == part[: 10 * count] and asked == part[1 : 10 * count + 1]


def test_vocabulary_is_fitted_on_the_training_split(write):
    data = write(BODY + "€" * 100)
    data.setup()
    assert set(data.vocabulary.tokens) == set(BODY)
    assert (data.split("test").targets == 3).sum() >= 90
    assert data.spec.vocabulary_size == data.spec.output_shape[0] == len(set(BODY)) + 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "book.txt: 0 characters are too few"),
        ("short", "book.txt: 5 characters are too few.*context=10"),
        (BODY.encode() + b"\xc3(", r"book.txt: this file is not UTF-8 text \(byte 1760\)"),
        ("é".encode("latin-1") + BODY.encode(), r"UTF-8 text \(byte 0\)"),
    ],
)
def test_error_names_an_unusable_text(write, content, message):
    with pytest.raises(UserError, match=message):
        write(content).setup()


def test_error_names_a_missing_file(tmp_path):
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(UserError, match=f"{path}: this (file cannot be read|is a folder)"):
            Text(path).setup()


def test_prompt_is_encoded_completely(write, caplog):
    data = write(BODY)
    data.setup()
    batch = data.encode(["the fox"])
    assert data.vocabulary.decode(batch.inputs[0][0].tolist()) == "the fox"
    assert data.decode_predictions([{"tokens": data.vocabulary.encode(" jumps")}]) == [{"prediction": " jumps"}]
    with caplog.at_level(logging.WARNING):
        data.encode(["the F0X"])
    assert "'0', 'F', 'X'" in caplog.text.replace("' '", "', '")


@pytest.mark.parametrize("prompts", [[], [""], ["the", "fox"]])
def test_several_prompts_are_rejected(write, prompts):
    data = write(BODY)
    data.setup()
    with pytest.raises(UserError, match="exactly one prompt"):
        data.encode(prompts)


def test_baseline_has_the_perplexity_of_the_unigram_entropy(write):
    data = write(BODY * 20)
    found = data.baseline()
    shares = {c: n / len(BODY) for c, n in Counter(BODY).items()}
    assert found["test/perplexity"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares.values())), rel=0.01)
    assert found["test/accuracy"] == pytest.approx(shares[" "], rel=0.01)


# ---- larger than memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["characters", "byte_pairs"])
@pytest.mark.parametrize("text", [BODY, "word " * 500, "a\n\nb\r\nc é\n" * 200], ids=["lines", "one line", "mixed"])
def test_tokens_on_disk_equal_tokens_in_memory(kind, text, tmp_path, monkeypatch):
    monkeypatch.setattr("src.datamodules.tokenizers.memory_mapped.CHUNK_CHARACTERS", 64)
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    settings = {"context": 10, "val_fraction": 0.1, "test_fraction": 0.2, "data_dir": tmp_path / "data"}
    made = [Text(path, kind, 300, memory_share=share, **settings) for share in (1, 0)]
    for data in made:
        data.setup()
    assert [data.on_disk for data in made] == [False, True]
    assert made[0].state_dict() == made[1].state_dict() and made[0].spec == made[1].spec
    for name in ("train", "val", "test"):
        assert torch.equal(made[0].split(name).tokens, made[1].split(name).tokens)
        batches = [[b.tokens for b in data.loader(name, shuffle=True)] for data in made]
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*batches, strict=True))
    assert made[0].baseline() == made[1].baseline()


def test_token_cache_is_reused_until_the_text_changes(tmp_path, caplog):
    path = tmp_path / "book.txt"
    path.write_text(BODY)

    def folders() -> dict[str, int]:
        data = Text(path, context=10, memory_share=0, data_dir=tmp_path)
        with caplog.at_level(logging.INFO):
            data.setup()
        return {f.name: f.stat().st_mtime_ns for f in (tmp_path / "tokens").iterdir()}

    first = folders()
    assert len(first) == 1 and folders() == first
    assert "would exceed 0 % of" in caplog.text and "mapped into memory" in caplog.text
    path.write_text(BODY + "more")
    second = folders()
    assert len(second) == 1 and second.keys() != first.keys(), "those of the text before it changed are of no use"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "train.int32").write_bytes((folder / "train.int32").read_bytes()[:400]),
        lambda folder: (folder / "metadata.json").write_text('{"tokens": {"tr'),
        lambda folder: (folder / "metadata.json").unlink(),
        lambda folder: (folder / "val.int32").unlink(),
        lambda folder: (folder / "val.int32").write_bytes(b"\xff" * (folder / "val.int32").stat().st_size),
        lambda folder: (folder / "val.int32").write_bytes(b"\x7f" * (folder / "val.int32").stat().st_size),
        lambda folder: (folder / "metadata.json").write_text(
            (folder / "metadata.json").read_text().replace('"characters": "', '"characters": 1, "x": "')
        ),
        lambda folder: folder.symlink_to(folder.rename(folder.parent.parent / "elsewhere")),
    ],
    ids=[
        "cut off",
        "torn",
        "without vocabulary",
        "without tokens",
        "negative tokens",
        "unknown tokens",
        "damaged vocabulary",
        "behind a link",
    ],
)
def test_damaged_token_cache_is_written_again(tmp_path, damage):
    path = tmp_path / "book.txt"
    path.write_text(BODY * 20)

    def tokens() -> dict[str, torch.Tensor]:
        data = Text(path, context=10, memory_share=0, data_dir=tmp_path)
        return {name: data.split(name)[0].clone() for name in ("train", "val", "test")}

    whole = tokens()
    (folder,) = (tmp_path / "tokens").iterdir()
    damage(folder)
    again = tokens()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_token_cache_is_not_written_through_a_link(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "tokens").symlink_to(tmp_path / "thesis")
    path = tmp_path / "book.txt"
    path.write_text(BODY)
    data = Text(path, context=10, memory_share=0, data_dir=tmp_path)
    with pytest.raises(UserError, match="tokens: this is a link"):
        data.setup()
    assert not list((tmp_path / "thesis").iterdir())


def test_error_names_an_unusable_text_on_disk(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(BODY.encode() + b"\xc3(")
    data = Text(path, context=10, memory_share=0, data_dir=tmp_path)
    with pytest.raises(UserError, match=r"book.txt: this file is not UTF-8 text"):
        data.setup()
    path.write_text(BODY)
    data = Text(path, context=10, memory_share=0, data_dir=path)  # a file, where a folder should be
    with pytest.raises(UserError, match=r"the tokens of .*book.txt cannot be written there.*paths.data"):
        data.setup()
    assert [p.name for p in tmp_path.iterdir()] == ["book.txt"]


def test_a_prompt_may_be_a_file(write, tmp_path):
    data = write(BODY)
    data.setup()
    (tmp_path / "prompt.txt").write_text("the fox")
    assert torch.equal(data.encode([str(tmp_path / "prompt.txt")])[0], data.encode(["the fox"])[0])
    with pytest.raises(UserError, match=r"missing\.txt: there is no such file"):
        data.encode(["missing.txt"])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"empty\.txt: this file is empty"):
        data.encode([str(tmp_path / "empty.txt")])
    (tmp_path / "long.txt").write_text("a" * (2**20 + 1))
    with pytest.raises(UserError, match=r"long\.txt: this file has more than 1 MiB$"):
        data.encode([str(tmp_path / "long.txt")])


@pytest.mark.req("R3", "T6")
@pytest.mark.parametrize("kind", ["characters", "byte_pairs"])
@pytest.mark.parametrize("model", [LSTM, Transformer])
def test_reserved_tokens_are_not_generated(model, kind, tmp_path):
    """With a network that thinks nothing else likely: a text has every token that was asked for, and no unknown one."""
    path = tmp_path / "book.txt"
    path.write_text(BODY)
    data = Text(path, kind, 300, context=10, val_fraction=0.1, test_fraction=0.2)
    data.setup()
    torch.manual_seed(0)
    made = model(data.spec).eval()
    with torch.no_grad():
        made.output.bias[: data.spec.reserved_tokens] = 50.0
    tokens = made.generate(data.encode(["the fox"]).inputs[0], max_new_tokens=40, temperature=1.0)
    assert tokens.shape == (1, 40) and tokens.min() >= 4
    (prediction,) = data.decode_predictions([{"tokens": tokens[0].tolist()}])
    if kind == "characters":  # bytes at random are no text
        assert len(prediction["prediction"]) == 40 and "\ufffd" not in prediction["prediction"]
    names = data.vocabulary.names(range(data.spec.reserved_tokens + 1))
    assert all(name.startswith("<") for name in names[:-1]) and not names[-1].startswith("<")
