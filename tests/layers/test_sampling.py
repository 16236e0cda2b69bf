"""The next token: the likeliest, or one drawn from the softmax."""

import pytest
import torch
from scipy.stats import chisquare

from src.layers.sampling import next_token


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0], [3.0, 2.9, 0.0]])
    assert next_token(logits, 0.0).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax_at_a_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -0.5, 2.0], dtype=torch.float64)
    draws = 20_000
    counts = torch.bincount(next_token(logits.expand(draws, 4), temperature), minlength=4)
    weights = torch.exp(logits / temperature)
    assert chisquare(counts.numpy(), (weights / weights.sum() * draws).numpy()).pvalue > 1e-3
    other = torch.exp(logits / (temperature * 1.3))
    assert chisquare(counts.numpy(), (other / other.sum() * draws).numpy()).pvalue < 1e-3
