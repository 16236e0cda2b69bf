"""Choice of the next token from logits."""

import torch
from torch import Tensor

DEFAULT_NEW_TOKENS = 200
"""Default number of tokens to generate for a text."""


def next_token(logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Return one token for each row of logits.

    Args:
        logits: [B, V].
        temperature: 0 takes the most likely token, a larger value samples from softmax(logits / temperature).
        top_k: sample from the k most likely tokens only (Fan, Lewis and Dauphin 2018).
        top_p: sample from the smallest set of most likely tokens with at least this total probability (nucleus sampling,
            Holtzman et al. 2020); applied after top_k.

    Returns:
        [B] int64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(distribution(logits, temperature, top_k, top_p), 1).squeeze(1)


def distribution(logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Return the probabilities [B, V] that `next_token` samples from; of equally likely tokens the first ones are kept."""
    shifted = logits - logits.max(-1, keepdim=True).values  # the maximum is 0, so that no temperature overflows
    probabilities, tokens = (shifted / max(temperature, 1e-30)).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        probabilities[:, top_k:] = 0
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if top_p is not None:
        of_more_likely = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(of_more_likely >= top_p, 0)
    truncated = torch.zeros_like(probabilities).scatter(-1, tokens, probabilities)
    return truncated / truncated.sum(-1, keepdim=True)
