"""Beam search against exhaustive search and against a reference implementation in plain Python."""

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


def toy_language(seed: int, sharpness: float = 1.5) -> LogProbabilities:
    """Return a random language: a function from a prefix to the log-probabilities of the next token."""

    def next_log_probabilities(prefix: tuple[int, ...]) -> list[float]:
        generator = torch.Generator().manual_seed(hash((seed, prefix)) % 2**31)
        logits = sharpness * torch.randn(VOCABULARY, dtype=torch.float64, generator=generator)
        logits[[PADDING, START]] = -math.inf
        return logits.log_softmax(0).tolist()

    return next_log_probabilities


def decoder_of(language: LogProbabilities) -> IncrementalDecoder:
    def next_logits(tokens: Tensor, start: int, caches: object) -> Tensor:
        return torch.tensor([language(tuple(row)) for row in tokens.tolist()], dtype=torch.float64)

    return IncrementalDecoder(next_logits)


def all_sequences(language: LogProbabilities, count: int) -> dict[tuple[int, ...], float]:
    """Return the log-probability of every sequence that ends within `count` tokens."""
    log_probabilities = {}
    for length in range(1, count + 1):
        for tokens in itertools.product(range(3, VOCABULARY), repeat=length - 1):
            sequence = (*tokens, END)
            steps = [language((START, *sequence[:i]))[token] for i, token in enumerate(sequence)]
            log_probabilities[sequence] = sum(steps)
    return log_probabilities


def reference_beam_search(
    language: LogProbabilities, count: int, beams: int, alpha: float
) -> tuple[tuple[int, ...], float]:
    """Return the result of a beam search with lists, which never stops early."""
    alive: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    ended: list[tuple[tuple[int, ...], float]] = []
    for length in range(1, count + 1):
        extended = []
        for tokens, score in alive:
            for token, log_probability in enumerate(language((START, *tokens))):
                if token == END:
                    ended.append(((*tokens, END), (score + log_probability) / ((5 + length) / 6) ** alpha))
                elif log_probability > -math.inf:
                    extended.append(((*tokens, token), score + log_probability))
        alive = sorted(extended, key=lambda pair: -pair[1])[:beams]
    return max(ended, key=lambda pair: pair[1])


def start_tokens(size: int) -> Tensor:
    return torch.full((size, 1), START)


def without_padding(row: Tensor) -> tuple[int, ...]:
    return tuple(token for token in row.tolist() if token != PADDING)


@pytest.mark.req("T6")
@ALPHAS
@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_best_of_all_sequences(seed: int, alpha: float) -> None:
    count, language = 5, toy_language(seed)
    scores = {s: p / ((5 + len(s)) / 6) ** alpha for s, p in all_sequences(language, count).items()}
    expected = max(scores, key=lambda sequence: scores[sequence])
    found, score = beam_search(decoder_of(language), start_tokens(1), count, END, PADDING, beams=2**count, alpha=alpha)
    assert without_padding(found[0]) == expected
    assert float(score) == pytest.approx(scores[expected], rel=1e-12)


def test_beam_search_differs_from_greedy_decoding_for_these_seeds() -> None:
    """For these seeds beam search differs from greedy decoding, and the length penalty changes the result."""
    greedy = [
        without_padding(sample(decoder_of(toy_language(seed)), start_tokens(1), 5, END, PADDING, 0.0)[0])
        for seed in range(8)
    ]
    searched = {
        alpha: [
            without_padding(
                beam_search(decoder_of(toy_language(seed)), start_tokens(1), 5, END, PADDING, 32, alpha)[0][0]
            )
            for seed in range(8)
        ]
        for alpha in (0.0, 1.5)
    }
    assert sum(a != b for a, b in zip(greedy, searched[0.0], strict=True)) >= 2
    assert sum(map(len, searched[1.5])) > sum(map(len, searched[0.0]))


@pytest.mark.req("T6")
@ALPHAS
@pytest.mark.parametrize("beams", [1, 2, 3])
def test_beam_search_equals_the_reference_implementation(beams: int, alpha: float) -> None:
    for seed in range(20):
        language = toy_language(seed)
        found, score = beam_search(decoder_of(language), start_tokens(1), 6, END, PADDING, beams, alpha)
        expected, value = reference_beam_search(language, 6, beams, alpha)
        assert without_padding(found[0]) == expected
        assert float(score) == pytest.approx(value, rel=1e-12)


def test_examples_of_a_batch_are_independent() -> None:
    languages = [toy_language(seed) for seed in range(6)]

    def by_first_token(
        prefix: tuple[int, ...],
    ) -> list[float]:  # the first token selects the language, as a source would
        return languages[prefix[0] - 10]((START, *prefix[1:]))

    firsts = torch.arange(10, 16).unsqueeze(1)
    rows, scores = beam_search(decoder_of(by_first_token), firsts, 5, END, PADDING, 3, 0.6)
    for row, score, language in zip(rows, scores, languages, strict=True):
        alone, value = beam_search(decoder_of(language), start_tokens(1), 5, END, PADDING, 3, 0.6)
        assert without_padding(row) == without_padding(alone[0]) and float(score) == float(value)


def test_without_an_end_token_the_most_likely_sequence_of_full_length_is_found() -> None:
    language, count = toy_language(3), 4
    scores = {
        sequence: sum(language((START, *sequence[:i]))[token] for i, token in enumerate(sequence))
        for sequence in itertools.product(range(2, VOCABULARY), repeat=count)
    }
    expected = max(scores, key=lambda sequence: scores[sequence])
    found, score = beam_search(decoder_of(language), start_tokens(1), count, None, PADDING, 81, 0.6)
    assert tuple(found[0].tolist()) == expected
    assert float(score) == pytest.approx(scores[expected] / ((5 + count) / 6) ** 0.6, rel=1e-12)


def test_unended_sequence_is_returned_only_if_none_has_ended() -> None:
    def endless(prefix: tuple[int, ...]) -> list[float]:
        return [-math.inf, -math.inf, -math.inf, math.log(0.7), math.log(0.3)]

    found, score = beam_search(decoder_of(endless), start_tokens(2), 3, END, PADDING, 2, 0.0)
    assert found.tolist() == [[3, 3, 3]] * 2
    assert score.tolist() == pytest.approx([3 * math.log(0.7)] * 2)

    def unlikely(prefix: tuple[int, ...]) -> list[float]:
        return [-math.inf, -math.inf, math.log(1e-9), math.log(0.7), math.log(0.3 - 1e-9)]

    found, _ = beam_search(decoder_of(unlikely), start_tokens(1), 3, END, PADDING, 2, 0.0)
    assert found.tolist() == [[END]]


def test_search_stops_when_no_better_sequence_is_possible() -> None:
    lengths: list[int] = []

    def confident(prefix: tuple[int, ...]) -> list[float]:
        lengths.append(len(prefix))
        return [-math.inf, -math.inf, math.log(0.9), math.log(0.06), math.log(0.04)]

    beam_search(decoder_of(confident), start_tokens(1), 50, END, PADDING, 4, 0.0)
    assert max(lengths) <= 2


@pytest.mark.req("T6")
def test_search_continues_while_a_longer_sequence_can_be_better() -> None:
    """At length 1 the ended and the unended hypothesis are equally likely; only the length penalty prefers the longer one."""

    def later(prefix: tuple[int, ...]) -> list[float]:
        end, other = {1: (0.5, 0.5), 2: (0.0, 1.0), 3: (0.0, 1.0)}.get(len(prefix), (1.0, 0.0))
        return [-math.inf, -math.inf, *(math.log(p) if p else -math.inf for p in (end, other)), -math.inf]

    found, score = beam_search(decoder_of(later), start_tokens(1), 6, END, PADDING, 2, 1.0)
    assert without_padding(found[0]) == (3, 3, 3, END)
    assert float(score) == pytest.approx(math.log(0.5) / 1.5)


def test_count_zero_generates_no_tokens() -> None:
    found, _ = beam_search(decoder_of(toy_language(0)), start_tokens(3), 0, END, PADDING, 2, 0.6)
    assert found.shape == sample(decoder_of(toy_language(0)), start_tokens(3), 0, END, PADDING, 0.0).shape == (3, 0)


@pytest.mark.req("T6")
@pytest.mark.parametrize(
    ("length", "alpha", "expected"), [(1, 0.6, 1.0), (7, 1.0, 2.0), (19, 0.5, 2.0), (30, 0.0, 1.0)]
)
def test_length_penalty_is_the_formula_of_wu_et_al(length: int, alpha: float, expected: float) -> None:
    assert length_penalty(length, alpha) == pytest.approx(expected, rel=1e-15)


def test_suppressed_tokens_are_never_generated() -> None:
    def next_logits(tokens: Tensor, start: int, caches: object) -> Tensor:
        return torch.tensor([[9.0, 8.0, 0.0, 1.0, 2.0]]).repeat(len(tokens), 1)

    decoder = IncrementalDecoder(next_logits, suppressed=(0, 1))
    assert sample(decoder, start_tokens(1), 3, None, PADDING, 0.0).tolist() == [[4, 4, 4]]
