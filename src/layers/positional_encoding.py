"""Positional encodings (textbook, Positional Encoding)."""

import math

import torch
from torch import Tensor, nn

from src.core.errors import UserError

MAX_PRECOMPUTED = 2**24
"""Maximum number of values of a position table that are computed before the first input; a checkpoint may state any length."""


def sinusoidal(length: int, d_model: int) -> Tensor:
    """Return PE[pos, 2i] = sin(pos / 10000^(2i/d_model)) and PE[pos, 2i+1] = cos(…), shaped [length, d_model], float64.

    The sines are the imaginary and the cosines the real parts of e^{i·pos·ω_i} (erratum E4).

    Args:
        length: number of positions.
        d_model: width, even or odd.
    """
    positions = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    rates = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    table = torch.empty(length, d_model, dtype=torch.float64)
    table[:, 0::2] = torch.sin(positions * rates)
    table[:, 1::2] = torch.cos(positions * rates)[:, : d_model // 2]
    return table


class SinusoidalPositions(nn.Module):
    """Adds sinusoidal positions to [B, T, d_model]; they have no parameters and no maximum length.

    Args:
        d_model: width.
        length: positions to precompute, up to `MAX_PRECOMPUTED` values; longer inputs extend the table.
    """

    def __init__(self, d_model: int, length: int) -> None:
        super().__init__()
        precomputed = min(length, max(MAX_PRECOMPUTED // d_model, 1))
        self.table = sinusoidal(precomputed, d_model)  # no buffer: it takes device and dtype of the inputs, float64 too

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add the positions start, start + 1, … to x [B, T, d_model]."""
        end, table = start + x.size(1), self.table
        if end > len(table) or table.dtype != x.dtype or table.device != x.device:
            length = len(table) if end <= len(table) else 2 * end
            self.table = sinusoidal(length, x.size(2)).to(x.device, x.dtype)
        return x + self.table[start:end]


class LearnedPositions(nn.Module):
    """Adds a learned vector for each of a fixed number of positions to [B, T, d_model].

    They are initialized with the mean square of sinusoidal positions, ½, which is comparable to that of embeddings, 1 (as in
    BERT and GPT-2, whose positions start about as large as their embeddings).

    Args:
        d_model: width.
        length: number of positions.
    """

    def __init__(self, d_model: int, length: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, d_model))
        nn.init.normal_(self.table, std=math.sqrt(0.5))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add the positions start, start + 1, … to x [B, T, d_model].

        Raises:
            UserError: if x extends beyond the learned positions.
        """
        end = start + x.size(1)
        if end > len(self.table):
            raise UserError(
                f"model.positions=learned: a sequence has {end} steps, and {len(self.table)} positions were learned; "
                "use shorter sequences or model.positions=sinusoidal"
            )
        return x + self.table[start:end]


POSITIONS: dict[str, type[SinusoidalPositions] | type[LearnedPositions]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
}
