"""Transformer (textbook, Attention Is All You Need): encoder-decoder, encoder or decoder, depending on the task."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.layers.decoding import Caches, IncrementalDecoder, beam_search, sample, stream
from src.layers.input_embedding import InputEmbedding
from src.layers.positional_encoding import POSITIONS
from src.layers.token_sampling import DEFAULT_NEW_TOKENS
from src.layers.transformer_blocks import Stack
from src.models.base import Model


class Transformer(Model):
    """Encoder-decoder for translation, decoder for language modelling, encoder for everything else.

    The encoder reads images row by row and predicts from the mean over its valid positions. Token embeddings are scaled
    by √d_model; the decoder's embedding and output layer share their weights.

    Args:
        spec: the data.
        d_model, num_heads, d_ff: widths, and the number of heads; d_ff None is 4·d_model.
        num_layers: N, for the encoder and the decoder each.
        norm_first: pre-norm instead of the paper's post-norm.
        activation: activation of the feed-forward networks; relu in the paper.
        positions: ``sinusoidal`` or ``learned``.
        beams: number of hypotheses of the beam search that generates the most likely sequence; 1 is greedy.
        length_penalty: α of the beam search, see `src.layers.decoding.length_penalty`.
        dropout: on attention weights, feed-forward networks, sublayer outputs and embeddings.
        stochastic_depth: probability to skip a sublayer of a stack's last block; the l-th of N blocks has l/N of it.
        checkpoint_activations: recompute each block in the backward pass, which needs less memory and more time.

    Raises:
        UserError: if num_heads does not divide d_model.
        common: arguments of `Model`.
    """

    tasks = (
        "classification",
        "binary_classification",
        "regression",
        "forecasting",
        "language_modelling",
        "translation",
    )
    inputs = ("image", "sequence", "tokens")
    supports_beam_search = True

    def __init__(
        self,
        spec: DataSpec,
        d_model: int = 128,
        num_heads: int = 4,
        num_layers: int = 2,
        d_ff: int | None = 256,
        norm_first: bool = False,
        activation: str = "relu",
        positions: str = "sinusoidal",
        beams: int = 1,
        length_penalty: float = 0.6,
        dropout: float = 0.1,
        stochastic_depth: float = 0.0,
        checkpoint_activations: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        if d_model % num_heads:
            raise UserError(f"model.num_heads={num_heads} does not divide model.d_model={d_model}")
        spec = self.spec
        self.beams, self.length_penalty = beams, length_penalty
        d_ff = 4 * d_model if d_ff is None else d_ff
        block: dict[str, Any] = {
            "num_heads": num_heads,
            "d_ff": d_ff,
            "dropout": dropout,
            "activation": activation,
            "stochastic_depth": stochastic_depth,
            "checkpoint_activations": checkpoint_activations,
        }
        self.scale = math.sqrt(d_model) if spec.inputs == "tokens" else 1.0
        self.dropout = nn.Dropout(dropout)
        self.embed = InputEmbedding(spec, d_model, project=True)
        length = spec.input_shape[1] if spec.inputs == "image" else spec.input_shape[0]
        self.positions = POSITIONS[positions](d_model, length)
        if spec.inputs == "tokens":
            nn.init.normal_(self.embed.layer.weight, std=d_model**-0.5)  # type: ignore[arg-type]
        self.encoder = self.decoder = None
        if spec.task != "language_modelling":
            self.encoder = Stack(num_layers, d_model, norm_first, cross=False, **block)
        if spec.task == "translation":
            assert spec.target_length is not None
            self.target_embed = nn.Embedding(spec.output_size, d_model, padding_idx=spec.padding_id)
            self.target_positions = POSITIONS[positions](d_model, spec.target_length)
            nn.init.normal_(self.target_embed.weight, std=d_model**-0.5)
        if spec.task in ("translation", "language_modelling"):
            self.decoder = Stack(num_layers, d_model, norm_first, cross=spec.task == "translation", **block)
        self.output = nn.Linear(d_model, spec.output_size)
        if self.decoder is not None:
            embedding = self.target_embed if spec.task == "translation" else self.embed.layer
            assert isinstance(embedding, nn.Embedding)
            self.output.weight = embedding.weight

    def forward(self, x: Tensor, targets_or_lengths: Tensor | None = None) -> Tensor:
        """Map inputs to outputs.

        Args:
            x: [B, T, F], an image [B, C, H, W], or tokens [B, T]; the source for translation.
            targets_or_lengths: target tokens [B, T] for translation; lengths [B] of the sequences for the other tasks.

        Returns:
            [B, *output_shape]; logits [B, T, V] for language modelling and translation.
        """
        if self.spec.task == "language_modelling":
            assert self.decoder is not None
            return self.output(self.decoder(self._embedded(x), causal=True))
        if self.spec.task == "translation":
            assert targets_or_lengths is not None
            memory, mask = self._encode(x)
            return self._decode(targets_or_lengths, memory, mask)
        encoded, mask = self._encode(x, targets_or_lengths)
        if mask is None:
            pooled = encoded.mean(1)
        else:
            weights = mask[:, 0, 0, :, None].to(encoded.dtype)
            pooled = (encoded * weights).sum(1) / weights.sum(1).clamp(min=1)
        return self.output(pooled).reshape(x.size(0), *self.spec.output_shape)

    def _valid(self, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Return [B, T], True at positions that are not padding; None if all are valid."""
        if lengths is not None:
            return torch.arange(x.size(1), device=x.device) < lengths.unsqueeze(1)
        if self.spec.inputs == "tokens" and self.spec.padding_id is not None:
            return x != self.spec.padding_id
        return None

    def _embedded(self, x: Tensor, start: int = 0) -> Tensor:
        return self.dropout(self.positions(self.embed(x) * self.scale, start))

    def _encode(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the memory [B, S, d_model] and the mask of its positions to attend to [B, 1, 1, S], None for all."""
        assert self.encoder is not None
        valid = self._valid(x, lengths)
        mask = None if valid is None else valid[:, None, None, :]
        return self.encoder(self._embedded(x), mask), mask

    def _decode(
        self, target: Tensor, memory: Tensor, mask: Tensor | None, caches: Caches | None = None, start: int = 0
    ) -> Tensor:
        assert self.decoder is not None
        embedded = self.dropout(self.target_positions(self.target_embed(target) * self.scale, start))
        # padding is at the end of a target, where the causal mask already hides it from all valid positions
        return self.output(self.decoder(embedded, None, True, memory, mask, caches))

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int | None = None,
        length_penalty: float | None = None,
        use_cache: bool = True,
    ) -> Tensor:
        """Return generated tokens as `Model.generate` does; at temperature 0 with several beams, by beam search.

        Args:
            inputs, max_new_tokens, temperature, top_k, top_p: as in `Model.generate`.
            beams, length_penalty: beams and length penalty of the beam search; None takes those of the model.
            use_cache: cache keys and values of earlier tokens, which is faster and does not change the result.
        """
        spec = self.spec
        if temperature:
            beams = 1
        elif beams is None:
            beams = self.beams
        padding = spec.padding_id or 0
        if spec.task == "translation":
            assert spec.target_length is not None and spec.start_id is not None
            decoder = self._translation_decoder(inputs, beams, use_cache)
            tokens = torch.full((inputs.size(0), 1), spec.start_id, device=inputs.device)
            longest = spec.target_length - 1
            count = longest if max_new_tokens is None else max_new_tokens
            if count > longest:
                raise UserError(
                    f"a translation of {count} tokens (--length): this model has learned at most {longest}; use --length "
                    f"{longest} or less"
                )
        else:
            decoder = self._text_decoder(use_cache)
            tokens = inputs
            count = DEFAULT_NEW_TOKENS if max_new_tokens is None else max_new_tokens
        if beams == 1:
            return sample(decoder, tokens, count, spec.end_id, padding, temperature, top_k=top_k, top_p=top_p)
        alpha = self.length_penalty if length_penalty is None else length_penalty
        return beam_search(decoder, tokens, count, spec.end_id, padding, beams, alpha)[0]

    @torch.no_grad()
    def generate_stream(
        self,
        inputs: Tensor,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Iterator[Tensor]:
        spec = self.spec
        count = DEFAULT_NEW_TOKENS if max_new_tokens is None else max_new_tokens
        padding = spec.padding_id or 0
        decoder = self._text_decoder(use_cache=True)
        yield from stream(decoder, inputs, count, spec.end_id, padding, temperature, top_k=top_k, top_p=top_p)

    def _translation_decoder(self, source: Tensor, beams: int, use_cache: bool) -> IncrementalDecoder:
        """Return a decoder of target tokens, with one row for each source and beam."""
        assert self.decoder is not None and self.spec.padding_id is not None and self.spec.start_id is not None
        memory, mask = self._encode(source)
        assert mask is not None
        memory, mask = memory.repeat_interleave(beams, 0), mask.repeat_interleave(beams, 0)

        def next_logits(new: Tensor, start: int, caches: Caches | None) -> Tensor:
            return self._decode(new, memory, mask, caches, start)[:, -1]

        suppressed = (self.spec.padding_id, self.spec.start_id)
        return IncrementalDecoder(next_logits, self.decoder.new_caches if use_cache else None, suppressed=suppressed)

    def _text_decoder(self, use_cache: bool) -> IncrementalDecoder:
        """Return a decoder of text, which looks back as far as in training: positions beyond that were never trained,
        sinusoidal or not (measured on text, context 64: 1.6 nats per character within a sliding window, 3.4 at positions
        192 to 256).
        """
        decoder = self.decoder
        assert decoder is not None

        def next_logits(new: Tensor, start: int, caches: Caches | None) -> Tensor:
            return self.output(decoder(self._embedded(new, start), causal=True, caches=caches)[:, -1])

        new_caches = decoder.new_caches if use_cache else None
        suppressed = tuple(range(self.spec.reserved_tokens))
        return IncrementalDecoder(next_logits, new_caches, self.spec.input_shape[0], suppressed=suppressed)
