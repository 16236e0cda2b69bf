"""Byte pairs: any text comes back as it was, the merges are those of the algorithm, and they travel in a checkpoint."""

import io
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from src.core.errors import UserError
from src.datamodules.text.language_modelling import Text
from src.datamodules.text.parallel_text import ParallelText
from src.datamodules.tokenizers.byte_pair import BytePairs
from src.datamodules.tokenizers.vocabulary import END, PADDING

BOOK = "the cat sat on the mat, and the other cat sat on the other mat\n" * 30
STRANGE = ["", "the cat", "  two  spaces ", "größer – 東京 🙂", "a\n\nb\tc", "<pad> <end>", "\u00a0x", "\x00"]


def merges(text: str, count: int) -> list[str]:
    """Byte-pair encoding as its paper writes it down, on words of letters behind a space."""
    words = Counter(tuple(" " + word) for word in text.split())
    found = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, number in words.items():
            for pair in pairwise(word):
                pairs[pair] += number
        best = max(pairs.values())
        chosen = {pair for pair, number in pairs.items() if number == best}
        if len(chosen) > 1:
            break  # a tie: the papers leave open which comes first
        (pair,) = chosen
        found.append("".join(pair))
        merged: Counter[tuple[str, ...]] = Counter()
        for word, number in words.items():
            parts, i = [], 0
            while i < len(word):
                step = 2 if word[i : i + 2] == pair else 1
                parts.append("".join(word[i : i + step]))
                i += step
            merged[tuple(parts)] += number
        words = merged
    return found


def test_merges_follow_the_published_algorithm():
    text = " ".join(["ab"] * 9 + ["cb"] * 5 + ["ad"] * 3 + ["cd"] * 2)  # no pair is as frequent as another
    expected = merges(text, 6)
    learned = BytePairs.of([text], 260 + len(expected))
    names = learned.names(range(260, len(learned)))
    assert len(expected) == 6 and names == [name.replace(" ", "␣") for name in expected]


@pytest.mark.parametrize("text", STRANGE)
@pytest.mark.parametrize("sentences", [True, False])
def test_decode_inverts_encode(text, sentences):
    text = text.strip() if sentences else text
    tokens = BytePairs.of([BOOK], 300, sentences=sentences)
    ids = tokens.encode(text)
    assert tokens.decode(ids) == text
    assert all(4 <= i < len(tokens) for i in ids)
    assert tokens.decode([*ids, END, *ids, PADDING]) == text


def test_vocabulary_does_not_depend_on_the_chunks_of_a_text():
    lines = BOOK.splitlines(keepends=True)
    assert BytePairs.of([BOOK], 320, sentences=False) == BytePairs.of(iter(lines), 320, sentences=False)


def test_rare_pairs_are_not_merged():
    assert len(BytePairs.of(["one two three"], 400, min_frequency=2)) < len(BytePairs.of(["one two three"], 400, 1))


def test_names_of_tokens_are_readable():
    tokens = BytePairs.of([BOOK], 300)
    assert tokens.names([0, 1, *tokens.encode("the\n")]) == ["<pad>", "<start>", "␣the", "⏎"]


@pytest.mark.parametrize("kind", ["text", "parallel_text"])
def test_state_dict_restores_byte_pairs(kind, tmp_path):
    path = tmp_path / "file"
    if kind == "text":
        path.write_text(BOOK)
        made = [Text(path, "byte_pairs", 300, context=8) for _ in range(2)]
    else:
        path.write_text("".join(f"{i} cats\t{i} Katzen\n" for i in range(40)))
        made = [ParallelText(path, tokens="byte_pairs", vocabulary_size=300) for _ in range(2)]
    made[0].setup()
    file = io.BytesIO()
    torch.save(made[0].state_dict(), file)
    file.seek(0)
    path.write_text("x\ty\n" * 300)  # another text would teach others
    made[1].load_state_dict(torch.load(file, weights_only=True))
    assert made[1].spec == made[0].spec and made[1]._splits is None
    text = "7 cats"
    assert torch.equal(made[1].encode([text]).inputs[0], made[0].encode([text]).inputs[0])


def test_each_language_has_its_own_byte_pairs(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"the {i} cats\tdie {i} Katzen\n" for i in range(40)))
    data = ParallelText(path, tokens="byte_pairs", vocabulary_size=300)
    data.setup()
    batch = data.split("train")
    for row in batch.target[:3].tolist():
        assert data.texts(torch.tensor([row[1:]]))[0].startswith("die ")
    assert data.token_names(batch.source[0].tolist())[0] == "␣the"
    assert data.token_names(batch.target[0].tolist(), target=True)[1] == "␣die"


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model["vocab"].update({"h": 4_000_000_000}),
        lambda model: model.update(unk_token="zzz"),
        lambda model: model.update(continuing_subword_prefix="##########"),
    ],
)
def test_a_vocabulary_that_no_training_makes_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    serialized = json.loads(BytePairs.of([BOOK], 300).serialized)
    change(serialized["model"])
    with pytest.raises(UserError, match="byte pairs"):
        BytePairs.from_plain({"tokenizer": json.dumps(serialized)})
