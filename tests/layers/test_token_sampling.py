"""The next token: the most likely one, or a sample from the softmax."""

import pytest
import torch
from scipy.stats import chisquare

from src.layers.token_sampling import distribution, next_token


def test_temperature_zero_takes_the_most_likely_token() -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0], [3.0, 2.9, 0.0]])
    assert next_token(logits, 0.0).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax_with_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -0.5, 2.0], dtype=torch.float64)
    draws = 20_000
    counts = torch.bincount(next_token(logits.expand(draws, 4), temperature), minlength=4)
    weights = torch.exp(logits / temperature)
    assert chisquare(counts.numpy(), (weights / weights.sum() * draws).numpy()).pvalue > 1e-3
    other = torch.exp(logits / (temperature * 1.3))
    assert chisquare(counts.numpy(), (other / other.sum() * draws).numpy()).pvalue < 1e-3


LOGITS = torch.tensor([0.4, 0.1, 0.05, 0.25, 0.2], dtype=torch.float64).log()


@pytest.mark.req("R3")
@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (None, None, [0.4, 0.1, 0.05, 0.25, 0.2]),
        (1, None, [1, 0, 0, 0, 0]),
        (3, None, [0.4 / 0.85, 0, 0, 0.25 / 0.85, 0.2 / 0.85]),
        (99, None, [0.4, 0.1, 0.05, 0.25, 0.2]),
        (None, 0.3, [1, 0, 0, 0, 0]),  # the most likely token alone is enough
        (None, 0.41, [0.4 / 0.65, 0, 0, 0.25 / 0.65, 0]),  # includes the token that crosses the threshold
        (None, 0.9, [0.4 / 0.95, 0.1 / 0.95, 0, 0.25 / 0.95, 0.2 / 0.95]),
        (None, 1.0, [0.4, 0.1, 0.05, 0.25, 0.2]),
        (3, 0.45, [1, 0, 0, 0, 0]),  # among three, 0.4 / 0.85 is enough
        (3, 0.5, [0.4 / 0.65, 0, 0, 0.25 / 0.65, 0]),  # 0.4 / 0.85 is below a half
    ],
)
def test_top_k_and_top_p_keep_the_most_likely_tokens_in_proportion(
    top_k: int | None, top_p: float | None, expected: list[float]
) -> None:
    probabilities = distribution(torch.stack((LOGITS, LOGITS.flip(0))), 1.0, top_k, top_p)
    row = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(probabilities, torch.stack((row, row.flip(0))), rtol=0, atol=1e-12)


@pytest.mark.req("R3")
def test_temperature_is_applied_before_truncation() -> None:
    """At temperature 2 the probabilities are proportional to the square roots; top_p then keeps all except the least likely."""
    weights = LOGITS.exp().sqrt()
    weights[2] = 0
    torch.testing.assert_close(distribution(LOGITS[None], 2.0, None, 0.88)[0], weights / weights.sum())


@pytest.mark.req("R3")
def test_truncated_samples_follow_their_distribution() -> None:
    torch.manual_seed(0)
    draws = 20_000
    counts = torch.bincount(next_token(LOGITS.expand(draws, 5), 1.3, top_k=4, top_p=0.8), minlength=5)
    expected = distribution(LOGITS[None], 1.3, 4, 0.8)[0] * draws
    possible = expected > 0
    assert 2 <= possible.sum() <= 3 and not counts[~possible].any()
    assert chisquare(counts[possible].numpy(), expected[possible].numpy()).pvalue > 1e-3


def test_top_k_keeps_exactly_k_of_equally_likely_tokens() -> None:
    assert (distribution(torch.zeros(1, 6), 1.0, top_k=2) > 0).tolist() == [[True, True, False, False, False, False]]


@pytest.mark.req("R3")
@pytest.mark.parametrize(("top_p", "count"), [(0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_the_probability(top_p: float, count: int) -> None:
    assert (distribution(torch.zeros(1, 4), 1.0, None, top_p) > 0).sum() == count


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-5])
def test_low_temperature_leaves_the_most_likely_token(temperature: float) -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0], [300.0, 290.0, -1e9]])
    assert distribution(logits, temperature).tolist() == [[0, 1, 0], [1, 0, 0]]
