"""Multi-head attention with torch's fused scaled dot-product attention (textbook, Mathematical Foundation)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn


class KeyValueCache:
    """Keys and values [B, h, T, d_k] of one attention layer, for decoding token by token."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append along time, and return all keys and values."""
        self.keys = keys if self.keys is None else cat((self.keys, keys), 2)
        self.values = values if self.values is None else cat((self.values, values), 2)
        return self.keys, self.values

    def select(self, rows: Tensor) -> None:
        """Keep only these rows [N] of the batch, in this order; a row may occur several times."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


def softmax_of_scores(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Return softmax(Q K^T / √d_k) [B, h, T, S]; arguments as in `MultiHeadAttention.attend`."""
    scores = query @ key.transpose(2, 3) / math.sqrt(query.size(3))
    if causal:
        causal_mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
        mask = causal_mask if mask is None else mask & causal_mask
    if mask is None:
        return scores.softmax(-1)
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~mask, 0.0)  # a fully masked query gets zeros, as in the fused implementation


class MultiHeadAttention(nn.Module):
    """Concat(head_1, …, head_h) W^O, each head softmax(Q K^T / √d_k) V.

    Args:
        d_model: width of queries, keys, values and output.
        num_heads: h; divides d_model.
        dropout: probability to drop an attention weight.

    Weights and biases are initialized as in ``torch.nn.MultiheadAttention``.

    Within `record_attention_weights`, `weights` [B, h, T, S] are those of the last forward pass; otherwise they are None.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        assert d_model % num_heads == 0
        self.num_heads = num_heads
        self.dropout = dropout
        self.recording = False
        self.weights: Tensor | None = None
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)
        for weight in (self.query.weight, *self.key_value.weight.chunk(2)):
            nn.init.xavier_uniform_(weight, gain=math.sqrt(0.5))  # as in torch, which fills all three as one matrix
        for layer in (self.query, self.key_value, self.output):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Attend from x to memory, or to x itself.

        Args:
            x: [B, T, d_model].
            memory: [B, S, d_model]; None for self-attention.
            mask: [B, 1, 1 or T, S] bool, True where a query may attend.
            causal: query i attends to keys j ≤ i only (erratum E2).
            cache: keys and values of earlier steps. Self-attention appends to it (one token at a time, once it is not
                empty); attention to a memory computes the memory's keys and values once.

        Returns:
            [B, T, d_model].
        """
        query = self._heads(self.query(x))
        if memory is not None and cache is not None and cache.keys is not None:
            assert cache.values is not None
            key, value = cache.keys, cache.values
        else:
            key, value = map(self._heads, self.key_value(x if memory is None else memory).chunk(2, -1))
            if cache is not None:
                # is_causal would align the first of several new queries with the very first key
                assert cache.keys is None or query.size(2) == 1
                key, value = cache.extend(key, value)
        causal = bool(causal and query.size(2) > 1)
        attend = self._attend_and_record if self.recording else self.attend
        return self.output(attend(query, key, value, mask, causal).transpose(1, 2).flatten(2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Return the heads' outputs [B, h, T, d_k] for queries [B, h, T, d_k], keys and values [B, h, S, d_k]; mask and
        causal as in `forward`.
        """
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)

    def _attend_and_record(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Attend with the textbook's explicit formula, and store the attention weights."""
        self.weights = F.dropout(softmax_of_scores(query, key, mask, causal), self.dropout, self.training)
        return self.weights @ value

    def _heads(self, x: Tensor) -> Tensor:
        """Split [B, T, d_model] into [B, h, T, d_k]."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


@contextmanager
def record_attention_weights(model: nn.Module) -> Iterator[dict[str, MultiHeadAttention]]:
    """Make every attention layer of a model store the weights of its last forward pass, within this context.

    Yields:
        The attention layers by their names in the model, such as ``decoder.blocks.0.cross``.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, MultiHeadAttention)}
    for layer in layers.values():
        layer.recording = True
    try:
        yield layers
    finally:
        for layer in layers.values():
            layer.recording, layer.weights = False, None
