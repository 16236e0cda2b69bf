"""From logits to the next token."""

import torch
from torch import Tensor

DEFAULT_NEW_TOKENS = 200
"""How far a text is continued when nobody says how far."""


def next_token(logits: Tensor, temperature: float) -> Tensor:
    """Return one token for each row of logits [B, V]: the likeliest at temperature 0, else a sample, shaped [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1).squeeze(1)
