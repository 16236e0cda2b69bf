"""Attention within a vmap over members."""

import torch.nn.functional as F
from torch import Tensor

from src.fused.layers.dropout import HasDropoutRate, dropout_mask
from src.fused.layers.vmap_escape import call_outside_vmap
from src.layers.attention import MultiHeadAttention, softmax_of_scores


class MemberAttention(MultiHeadAttention, HasDropoutRate):
    """`MultiHeadAttention` with a dropout rate that is a tensor.

    Args:
        attention: the layer that provides the parameters.
    """

    def __init__(self, attention: MultiHeadAttention) -> None:
        HasDropoutRate.__init__(self)
        self.num_heads, self.recording, self.weights = attention.num_heads, False, None
        self.query, self.key_value, self.output = attention.query, attention.key_value, attention.output

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Attend with torch's kernel, for the heads of all members at once, unless weights are dropped."""
        if not (self.training and self.has_dropout):
            return call_outside_vmap(lambda *tensors: _attend(causal, *tensors), query, key, value, mask)
        weights = softmax_of_scores(query, key, mask, causal)
        return (weights * dropout_mask(weights, tuple(weights.shape), self.rate)) @ value


def _attend(causal: bool, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attend for queries [K, B, h, T, d_k] of all members."""
    folded = [None if x is None else x.flatten(0, 1) for x in (query, key, value, mask)]
    attended = F.scaled_dot_product_attention(*folded, is_causal=causal)  # type: ignore[arg-type, misc]
    return attended.unflatten(0, query.shape[:2])
