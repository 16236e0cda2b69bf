"""From logits to the next token."""

import torch
from torch import Tensor

DEFAULT_NEW_TOKENS = 200
"""How far a text is continued when nobody says how far."""


def next_token(logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Return one token for each row of logits.

    Args:
        logits: [B, V].
        temperature: 0 takes the likeliest token, more draws from softmax(logits / temperature).
        top_k: draw from the k likeliest tokens only (Fan, Lewis and Dauphin 2018).
        top_p: draw from the smallest set of likeliest tokens that together have at least this probability (nucleus
            sampling, Holtzman and others 2020); after top_k where both are given.

    Returns:
        [B] int64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(distribution(logits, temperature, top_k, top_p), 1).squeeze(1)


def distribution(logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Return the probabilities [B, V] that `next_token` draws from; of equally likely tokens the first ones stay."""
    below = logits - logits.max(-1, keepdim=True).values  # 0 for the likeliest, so that no temperature overflows
    probabilities, tokens = (below / max(temperature, 1e-30)).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        probabilities[:, top_k:] = 0
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if top_p is not None:
        more_likely = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(more_likely >= top_p, 0)
    kept = torch.zeros_like(probabilities).scatter(-1, tokens, probabilities)
    return kept / kept.sum(-1, keepdim=True)
