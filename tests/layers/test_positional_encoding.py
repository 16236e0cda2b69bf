"""Positional encodings: the formula, and the properties that the textbook states."""

import math

import pytest
import torch

from src.core.errors import UserError
from src.layers.positional_encoding import LearnedPositions, SinusoidalPositions, sinusoidal


@pytest.mark.req("T3")
@pytest.mark.parametrize("d_model", [8, 7, 1])
def test_sinusoidal_positions_are_the_formula(d_model: int) -> None:
    expected = [
        [(math.cos if j % 2 else math.sin)(pos / 10000 ** (2 * (j // 2) / d_model)) for j in range(d_model)]
        for pos in range(200)
    ]
    table = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(sinusoidal(200, d_model), table, rtol=0, atol=1e-12)


@pytest.mark.req("T3")
def test_every_position_is_unique() -> None:
    """The first pair (sin pos, cos pos) alone already differs, as π is irrational; all pairs have a minimum distance."""
    first = sinusoidal(100_000, 2)
    assert len(torch.unique(first, dim=0)) == len(first)
    table = sinusoidal(3000, 16)
    distances = torch.cdist(table, table, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    assert distances.min() > 1e-2


@pytest.mark.req("T3")
@pytest.mark.parametrize("k", [1, 5, 250])
def test_a_shift_is_one_linear_map_for_all_positions(k: int) -> None:
    """Each pair (sin, cos) is rotated by the angle ω_i·k, at every position."""
    d_model, positions = 12, 400
    table = sinusoidal(positions + k, d_model)
    shift = torch.zeros(d_model, d_model, dtype=torch.float64)
    for i in range(d_model // 2):
        angle = k / 10000 ** (2 * i / d_model)
        rotation = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        shift[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor(rotation, dtype=torch.float64)
    torch.testing.assert_close(table[:positions] @ shift.T, table[k:], rtol=0, atol=1e-12)


@pytest.mark.req("T3")
def test_cosines_are_the_real_and_sines_the_imaginary_parts() -> None:
    """Erratum E4: the textbook's Re[e^{i·pos·ω}] alone would be the cosines."""
    d_model, positions = 10, 300
    rates = torch.tensor([10000 ** (-2 * i / d_model) for i in range(d_model // 2)], dtype=torch.float64)
    phases = torch.exp(1j * torch.arange(positions, dtype=torch.float64)[:, None] * rates)
    table = sinusoidal(positions, d_model)
    torch.testing.assert_close(table[:, 1::2], phases.real, rtol=0, atol=1e-12)
    torch.testing.assert_close(table[:, 0::2], phases.imag, rtol=0, atol=1e-12)


@pytest.mark.req("T3")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("start", [0, 3, 90])
def test_sinusoidal_positions_extend_beyond_the_precomputed_length(start: int, dtype: torch.dtype) -> None:
    added = SinusoidalPositions(6, length=10)(torch.zeros(2, 20, 6, dtype=dtype), start)
    assert added.dtype == dtype
    assert torch.equal(added[1], sinusoidal(start + 20, 6)[start:].to(dtype))


@pytest.mark.req("T3")
def test_learned_positions_are_added_and_trained() -> None:
    positions = LearnedPositions(4, length=6).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    out = positions(x, start=3)
    torch.testing.assert_close(out - x, positions.table[3:5].detach().expand(3, 2, 4))
    out.sum().backward()
    assert positions.table.grad is not None
    assert positions.table.grad.sum(1).tolist() == [0, 0, 0, 12, 12, 0]


@pytest.mark.req("T3")
def test_learned_positions_are_initialized_as_large_as_sinusoidal_ones() -> None:
    torch.manual_seed(0)
    learned = LearnedPositions(64, length=100).table.detach()
    assert float(learned.square().mean()) == pytest.approx(float(sinusoidal(100, 64).square().mean()), rel=0.05)
    assert abs(float(learned.mean())) < 0.05


@pytest.mark.req("T3")
def test_learned_positions_reject_longer_sequences() -> None:
    with pytest.raises(UserError, match=r"9 steps, and 8 positions were learned.*sinusoidal"):
        LearnedPositions(4, length=8)(torch.zeros(1, 4, 4), start=5)
