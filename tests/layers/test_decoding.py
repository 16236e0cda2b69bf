"""Beam search against the search through all sequences, and against itself written out in plain Python."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.layers.decoding import IncrementalDecoder, beam_search, length_penalty, sample

PADDING, START, END = 0, 1, 2
VOCABULARY = 5
ALPHAS = pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])

LogProbabilities = Callable[[tuple[int, ...]], list[float]]


def toy(seed: int, sharpness: float = 1.5) -> LogProbabilities:
    """A language of its own: for every beginning, some probabilities of the next token."""

    def next_of(beginning: tuple[int, ...]) -> list[float]:
        generator = torch.Generator().manual_seed(hash((seed, beginning)) % 2**31)
        logits = sharpness * torch.randn(VOCABULARY, dtype=torch.float64, generator=generator)
        logits[[PADDING, START]] = -math.inf
        return logits.log_softmax(0).tolist()

    return next_of


def reader(language: LogProbabilities) -> IncrementalDecoder:
    def read(tokens: Tensor, start: int, caches: object) -> Tensor:
        return torch.tensor([language(tuple(row)) for row in tokens.tolist()], dtype=torch.float64)

    return IncrementalDecoder(read)


def all_sequences(language: LogProbabilities, count: int) -> dict[tuple[int, ...], float]:
    """The log-probability of every sequence that ends within `count` tokens."""
    found = {}
    for length in range(1, count + 1):
        for words in itertools.product(range(3, VOCABULARY), repeat=length - 1):
            sequence = (*words, END)
            found[sequence] = sum(language((START, *sequence[:i]))[token] for i, token in enumerate(sequence))
    return found


def by_hand(language: LogProbabilities, count: int, beams: int, alpha: float) -> tuple[tuple[int, ...], float]:
    """The same search with lists, which never stops early."""
    alive: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    ended: list[tuple[tuple[int, ...], float]] = []
    for length in range(1, count + 1):
        grown = []
        for words, score in alive:
            for token, more in enumerate(language((START, *words))):
                if token == END:
                    ended.append(((*words, END), (score + more) / ((5 + length) / 6) ** alpha))
                elif more > -math.inf:
                    grown.append(((*words, token), score + more))
        alive = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return max(ended, key=lambda pair: pair[1])


def starts(size: int) -> Tensor:
    return torch.full((size, 1), START)


def words_of(row: Tensor) -> tuple[int, ...]:
    return tuple(token for token in row.tolist() if token != PADDING)


@pytest.mark.req("T6")
@ALPHAS
@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_best_of_all_sequences(seed: int, alpha: float) -> None:
    count, language = 5, toy(seed)
    scores = {s: p / ((5 + len(s)) / 6) ** alpha for s, p in all_sequences(language, count).items()}
    expected = max(scores, key=lambda sequence: scores[sequence])
    found, score = beam_search(reader(language), starts(1), count, END, PADDING, beams=2**count, alpha=alpha)
    assert words_of(found[0]) == expected
    assert float(score) == pytest.approx(scores[expected], rel=1e-12)


def test_the_seeds_above_need_a_search() -> None:
    """Greedy decoding would not do, and the penalty decides."""
    greedy = [words_of(sample(reader(toy(seed)), starts(1), 5, END, PADDING, 0.0)[0]) for seed in range(8)]
    searched = {
        alpha: [
            words_of(beam_search(reader(toy(seed)), starts(1), 5, END, PADDING, 32, alpha)[0][0]) for seed in range(8)
        ]
        for alpha in (0.0, 1.5)
    }
    assert sum(a != b for a, b in zip(greedy, searched[0.0], strict=True)) >= 2
    assert sum(map(len, searched[1.5])) > sum(map(len, searched[0.0]))


@pytest.mark.req("T6")
@ALPHAS
@pytest.mark.parametrize("beams", [1, 2, 3])
def test_a_narrow_beam_is_the_search_written_out(beams: int, alpha: float) -> None:
    for seed in range(20):
        language = toy(seed)
        found, score = beam_search(reader(language), starts(1), 6, END, PADDING, beams, alpha)
        expected, value = by_hand(language, 6, beams, alpha)
        assert words_of(found[0]) == expected
        assert float(score) == pytest.approx(value, rel=1e-12)


def test_examples_of_a_batch_do_not_meet() -> None:
    languages = [toy(seed) for seed in range(6)]

    def together(beginning: tuple[int, ...]) -> list[float]:  # the first token tells the example, as a source would
        return languages[beginning[0] - 10]((START, *beginning[1:]))

    firsts = torch.arange(10, 16).unsqueeze(1)
    found, scores = beam_search(reader(together), firsts, 5, END, PADDING, 3, 0.6)
    for row, score, language in zip(found, scores, languages, strict=True):
        alone, value = beam_search(reader(language), starts(1), 5, END, PADDING, 3, 0.6)
        assert words_of(row) == words_of(alone[0]) and float(score) == float(value)


def test_without_an_end_the_likeliest_text_of_the_full_length_is_found() -> None:
    language, count = toy(3), 4
    scores = {
        words: sum(language((START, *words[:i]))[token] for i, token in enumerate(words))
        for words in itertools.product(range(2, VOCABULARY), repeat=count)
    }
    expected = max(scores, key=lambda words: scores[words])
    found, score = beam_search(reader(language), starts(1), count, None, PADDING, 81, 0.6)
    assert tuple(found[0].tolist()) == expected
    assert float(score) == pytest.approx(scores[expected] / ((5 + count) / 6) ** 0.6, rel=1e-12)


def test_what_has_not_ended_is_the_answer_only_where_nothing_has() -> None:
    def endless(beginning: tuple[int, ...]) -> list[float]:
        return [-math.inf, -math.inf, -math.inf, math.log(0.7), math.log(0.3)]

    found, score = beam_search(reader(endless), starts(2), 3, END, PADDING, 2, 0.0)
    assert found.tolist() == [[3, 3, 3]] * 2
    assert score.tolist() == pytest.approx([3 * math.log(0.7)] * 2)

    def unlikely(beginning: tuple[int, ...]) -> list[float]:
        return [-math.inf, -math.inf, math.log(1e-9), math.log(0.7), math.log(0.3 - 1e-9)]

    found, _ = beam_search(reader(unlikely), starts(1), 3, END, PADDING, 2, 0.0)
    assert found.tolist() == [[END]]


def test_the_search_stops_when_nothing_better_can_come() -> None:
    asked: list[int] = []

    def sure(beginning: tuple[int, ...]) -> list[float]:
        asked.append(len(beginning))
        return [-math.inf, -math.inf, math.log(0.9), math.log(0.06), math.log(0.04)]

    beam_search(reader(sure), starts(1), 50, END, PADDING, 4, 0.0)
    assert max(asked) <= 2


@pytest.mark.req("T6")
def test_the_search_goes_on_while_a_longer_sequence_can_win() -> None:
    """At length 1 the ended and the unended beginning are equally likely; only the penalty of what may follow decides."""

    def later(beginning: tuple[int, ...]) -> list[float]:
        end, on = {1: (0.5, 0.5), 2: (0.0, 1.0), 3: (0.0, 1.0)}.get(len(beginning), (1.0, 0.0))
        return [-math.inf, -math.inf, *(math.log(p) if p else -math.inf for p in (end, on)), -math.inf]

    found, score = beam_search(reader(later), starts(1), 6, END, PADDING, 2, 1.0)
    assert words_of(found[0]) == (3, 3, 3, END)
    assert float(score) == pytest.approx(math.log(0.5) / 1.5)


def test_no_tokens_are_asked_for() -> None:
    found, _ = beam_search(reader(toy(0)), starts(3), 0, END, PADDING, 2, 0.6)
    assert found.shape == sample(reader(toy(0)), starts(3), 0, END, PADDING, 0.0).shape == (3, 0)


@pytest.mark.req("T6")
@pytest.mark.parametrize(
    ("length", "alpha", "expected"), [(1, 0.6, 1.0), (7, 1.0, 2.0), (19, 0.5, 2.0), (30, 0.0, 1.0)]
)
def test_the_length_penalty_is_that_of_wu_and_others(length: int, alpha: float, expected: float) -> None:
    assert length_penalty(length, alpha) == pytest.approx(expected, rel=1e-15)


def test_tokens_that_are_never_generated() -> None:
    def read(tokens: Tensor, start: int, caches: object) -> Tensor:
        return torch.tensor([[9.0, 8.0, 0.0, 1.0, 2.0]]).repeat(len(tokens), 1)

    assert sample(IncrementalDecoder(read, never=(0, 1)), starts(1), 3, None, PADDING, 0.0).tolist() == [[4, 4, 4]]
