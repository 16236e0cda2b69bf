import logging

from src.datamodules.tokenizers.characters import Characters
from src.datamodules.tokenizers.vocabulary import END, PADDING, START, UNKNOWN


def test_vocabulary_of_characters_is_sorted():
    vocabulary = Characters.of(["żółw", "abba"])
    assert vocabulary == Characters.of(["abba", "wółż"])  # neither the order nor the number of occurrences counts
    assert vocabulary.tokens == "".join(sorted("żółwab"))
    assert vocabulary.decode(vocabulary.encode("żaba")) == "żaba"
    ids = {token for token in vocabulary.encode("żółwab")}
    assert ids == set(range(4, len(vocabulary))) and not ids & {PADDING, START, END, UNKNOWN}


def test_unknown_characters_are_reported(caplog):
    vocabulary = Characters("ab")
    with caplog.at_level(logging.WARNING):
        assert vocabulary.encode("a?b", warn=True) == [4, UNKNOWN, 5]
    assert "'?'" in caplog.text
    caplog.clear()
    vocabulary.encode("ab", warn=True), vocabulary.encode("a?b")
    assert not caplog.records


def test_decode_stops_at_the_first_end_or_padding():
    vocabulary = Characters("ab")
    assert vocabulary.decode([4, 5, END, 5]) == "ab"
    assert vocabulary.decode([4, PADDING, 5]) == "a"
    assert vocabulary.decode([4, UNKNOWN]) == "a�"
