import logging

import pytest

from src.datamodules.tokenizers.vocabulary import END, PADDING, UNKNOWN
from src.datamodules.tokenizers.words import Words, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't stop!", ["don't", "stop", "!"]),
        ("Änderungen kosten 3,50 €.", ["änderungen", "kosten", "3", ",", "50", "€", "."]),
        ("  \t\n", []),
        ("l’été… à Paris", ["l’été", "…", "à", "paris"]),
    ],
)
def test_words_and_punctuation_marks_are_tokens(text, tokens):
    assert tokenize(text) == tokens
    assert "".join(tokens) == "".join(text.lower().split()), "nothing is lost"


def test_rare_words_are_unknown_and_frequent_ones_come_first(caplog):
    words = Words.of(["b a b", "A c"], min_frequency=2)
    assert words.tokens == ("a", "b") and len(words) == 6
    with caplog.at_level(logging.WARNING):
        assert words.encode("B c a", warn=True) == [5, UNKNOWN, 4]
    assert caplog.messages == ["words that did not occur in training are read as <unknown>: 'c'"]
    assert words.decode([5, 4, END, 4]) == words.decode([5, 4, PADDING]) == "b a"
    assert Words.from_plain(words.to_plain()) == words


def test_added_words_do_not_change_ids():
    words = Words.of(["b a"])
    more = words.extended(["motion picture", "a"])
    assert more.tokens == ("a", "b", "motion", "picture")
    assert more.encode("a b") == words.encode("a b")
