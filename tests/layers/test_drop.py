"""Stochastic depth: whole branches, at their rate, without moving the mean."""

from math import sqrt

import pytest
import torch

from src.layers.drop import StochasticDepth


@pytest.mark.req("G2")
@pytest.mark.parametrize("drop", [0.1, 0.5, 0.8])
def test_whole_examples_are_dropped_and_the_mean_stays(drop: float) -> None:
    torch.manual_seed(0)
    examples = 20_000
    branch = torch.randn(1, 3, 2, dtype=torch.float64).expand(examples, 3, 2)
    out = StochasticDepth(drop)(branch)
    scale = (out / branch).flatten(1)
    assert torch.equal(scale, scale[:, :1].expand_as(scale))  # one fate for a whole example
    kept = scale[:, 0] > 0
    torch.testing.assert_close(scale[kept, 0], torch.full((int(kept.sum()),), 1 / (1 - drop), dtype=torch.float64))
    deviation = sqrt(drop * (1 - drop) / examples)
    assert abs(kept.double().mean() - (1 - drop)) < 5 * deviation
    assert abs(scale[:, 0].mean() - 1) < 5 * deviation / (1 - drop)


def test_evaluation_drops_nothing() -> None:
    branch = torch.randn(50, 3)
    assert torch.equal(StochasticDepth(0.9).eval()(branch), branch)
