"""Blocks and stacks of blocks of transformers (textbook, Architecture Deep Dive)."""

from collections.abc import Callable

from torch import Tensor, nn

from src.layers.activation_checkpointing import checkpointed
from src.layers.activations import make_activation
from src.layers.attention import KeyValueCache, MultiHeadAttention
from src.layers.dropout import StochasticDepth


class Block(nn.Module):
    """Self-attention, attention to a memory if the block has one, and a feed-forward network, each with a residual.

    Post-norm is LayerNorm(x + Sublayer(x)), the paper's; pre-norm is x + Sublayer(LayerNorm(x)) (erratum E3).

    Args:
        d_model, num_heads, d_ff: widths of the block, and the number of heads.
        dropout: on attention weights, inside the feed-forward network and on every sublayer's output.
        norm_first: pre-norm instead of post-norm.
        activation: activation of the feed-forward network; relu in the paper.
        cross: attend to a memory too (decoder of an encoder-decoder).
        stochastic_depth: probability to skip each sublayer, drawn for each example.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        dropout: float,
        norm_first: bool,
        activation: str,
        cross: bool,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = MultiHeadAttention(d_model, num_heads, dropout)
        self.attention_norm = nn.LayerNorm(d_model)
        self.cross = MultiHeadAttention(d_model, num_heads, dropout) if cross else None
        self.cross_norm = nn.LayerNorm(d_model) if cross else None
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_ff), make_activation(activation), nn.Dropout(dropout), nn.Linear(d_ff, d_model)
        )
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.skip = StochasticDepth(stochastic_depth)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        caches: tuple[KeyValueCache, KeyValueCache] | None = None,
    ) -> Tensor:
        """Map [B, T, d_model] to [B, T, d_model]; see `MultiHeadAttention` for masks and caches."""
        cache, cross_cache = caches or (None, None)
        x = self._residual(x, self.attention_norm, lambda y: self.attention(y, mask=mask, causal=causal, cache=cache))
        if self.cross is not None and self.cross_norm is not None:
            cross = self.cross
            x = self._residual(x, self.cross_norm, lambda y: cross(y, memory, mask=memory_mask, cache=cross_cache))
        return self._residual(x, self.feed_forward_norm, self.feed_forward)

    def _residual(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + self.skip(self.dropout(sublayer(norm(x))))
        return norm(x + self.skip(self.dropout(sublayer(x))))


class Stack(nn.Module):
    """N blocks, and with pre-norm a final normalisation. Arguments are those of `Block`; `stochastic_depth` is that of the
    last block, and the l-th block has l/N of it.

    With `checkpoint_activations`, the backward pass recomputes each block (`src.layers.activation_checkpointing`).
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        norm_first: bool,
        stochastic_depth: float = 0.0,
        checkpoint_activations: bool = False,
        **block: object,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.blocks = nn.ModuleList(
            Block(
                d_model=d_model,
                norm_first=norm_first,
                stochastic_depth=stochastic_depth * number / num_layers,
                **block,  # type: ignore[arg-type]
            )
            for number in range(1, num_layers + 1)
        )
        self.norm = nn.LayerNorm(d_model) if norm_first else nn.Identity()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        caches: list[tuple[KeyValueCache, KeyValueCache]] | None = None,
    ) -> Tensor:
        for number, block in enumerate(self.blocks):
            inputs = x, mask, causal, memory, memory_mask, caches[number] if caches else None
            x = checkpointed(block, *inputs) if self.checkpoint_activations else block(*inputs)
        return self.norm(x)

    def new_caches(self) -> list[tuple[KeyValueCache, KeyValueCache]]:
        """Return empty caches for decoding token by token."""
        return [(KeyValueCache(), KeyValueCache()) for _ in self.blocks]
