"""Sequence generation with a model: greedy, sampling, beam search (textbook, Decoder).

Each method calls an `IncrementalDecoder` for the logits of the next token. The decoder may cache keys and values of earlier
tokens, which is faster and does not change the result.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from src.layers.attention import KeyValueCache
from src.layers.token_sampling import next_token

Caches: TypeAlias = list[tuple[KeyValueCache, KeyValueCache]]
"""For each block, the cache of its self-attention and that of its attention to a memory."""


class IncrementalDecoder:
    """Returns the logits of the next token of a growing sequence.

    Args:
        next_logits: maps tokens [N, t], the position of the first of them, and caches to logits [N, V] after the last.
        caches: empty caches; None processes the whole sequence at each step.
        context: maximum number of earlier tokens to use; None for all.
        suppressed: tokens that are never generated, such as padding.
    """

    def __init__(
        self,
        next_logits: Callable[[Tensor, int, Caches | None], Tensor],
        caches: Caches | None = None,
        context: int | None = None,
        suppressed: tuple[int, ...] = (),
    ) -> None:
        self.next_logits = next_logits
        self.caches = caches
        self.cached_length = 0
        self.context = context
        self.suppressed = list(suppressed)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return logits [N, V] after tokens [N, t], which continue the tokens of the last call."""
        window = tokens if self.context is None else tokens[:, -self.context :]
        if window.size(1) < tokens.size(1):  # the window slides, so that every token in it changes its position
            self.caches, self.cached_length = None, 0
        logits = self.next_logits(window[:, self.cached_length :], self.cached_length, self.caches)
        if self.caches is not None:
            self.cached_length = window.size(1)
        if self.suppressed:
            logits[:, self.suppressed] = -torch.inf
        return logits

    def select(self, rows: Tensor) -> None:
        """Continue with these rows [N] of the cached tokens; caches of a memory are unchanged."""
        for self_attention, _ in self.caches or ():
            self_attention.select(rows)


def stream(
    decoder: IncrementalDecoder,
    tokens: Tensor,
    count: int,
    end: int | None,
    padding: int,
    temperature: float,
    **sampling: Any,
) -> Iterator[Tensor]:
    """Yield next tokens [B], the most likely ones at temperature 0 (greedy), otherwise samples, until all sequences ended.

    Args:
        decoder: decoder of the model.
        tokens: [B, t], the tokens to continue.
        count: maximum number of tokens to generate.
        end: the token that ends a sequence; None if there is none.
        padding: token that follows the end of a sequence.
        temperature, sampling: arguments of `next_token`.
    """
    ended = torch.zeros(tokens.size(0), dtype=torch.bool, device=tokens.device)
    for _ in range(count):
        chosen = next_token(decoder(tokens), temperature, **sampling)
        if end is not None:
            chosen = chosen.masked_fill(ended, padding)
            ended |= chosen == end
        yield chosen
        tokens = torch.cat((tokens, chosen.unsqueeze(1)), 1)
        if ended.all():
            break


def sample(decoder: IncrementalDecoder, tokens: Tensor, *arguments: Any, **sampling: Any) -> Tensor:
    """Return the tokens of `stream` as [B, N], N ≤ count; the arguments are the same."""
    chosen = stream(decoder, tokens, *arguments, **sampling)
    return torch.cat((tokens[:, :0], *(token.unsqueeze(1) for token in chosen)), 1)


def length_penalty(length: int, alpha: float) -> float:
    """Return ((5 + length)/6)^α, by which the log-probability of a sequence is divided (Wu et al. 2016, equation 14).

    Args:
        length: in tokens, including the end token.
        alpha: 0 prefers short sequences, as every token costs probability; larger values prefer longer ones.
    """
    return ((5 + length) / 6) ** alpha


def beam_search(
    decoder: IncrementalDecoder, tokens: Tensor, count: int, end: int | None, padding: int, beams: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Return the best sequence of a beam search, which extends the `beams` most likely hypotheses at every step.

    Each hypothesis may also end: the ended sequence is stored if it has the best penalised log-probability so far, and takes
    no beam. The search stops when no hypothesis can become better than the stored sequence. A sequence that has not ended
    after `count` tokens is returned only if no sequence has ended.

    Args:
        decoder: decoder of the model, for B·beams rows; the rows of one example are consecutive.
        tokens: [B, t], the tokens to continue.
        count: maximum number of tokens to generate.
        end: the token that ends a sequence; None if there is none, and all sequences have `count` tokens.
        padding: token that follows the end of a sequence.
        beams: number of hypotheses per example; 1 still differs from `sample`, which takes an end token immediately.
        alpha: alpha of `length_penalty`, 0 or more.

    Returns:
        The generated tokens [B, N] without the inputs, N ≤ count, and their penalised log-probabilities [B].
    """
    assert beams >= 1 and alpha >= 0
    size, start = tokens.shape
    first = torch.arange(size, device=tokens.device).unsqueeze(1) * beams  # the first row of each example
    alive = tokens.repeat_interleave(beams, 0)  # [B·K, t]
    scores = torch.full((size, beams), -torch.inf, device=tokens.device)  # log-probabilities of the hypotheses
    scores[:, 0] = 0.0  # the hypotheses of an example are still identical, so that only the first one counts
    best = tokens.new_full((size, count), padding)
    best_scores = torch.full((size,), -torch.inf, device=tokens.device)
    for length in range(1, count + 1):
        next_scores = scores.unsqueeze(2) + decoder(alive).log_softmax(-1).unflatten(0, (size, beams))  # [B, K, V]
        if end is not None:
            ended_scores, beam = (next_scores[:, :, end] / length_penalty(length, alpha)).max(1)
            ended = F.pad(alive[first.squeeze(1) + beam, start:], (0, 1), value=end)
            better = ended_scores > best_scores
            best = torch.where(better.unsqueeze(1), F.pad(ended, (0, count - length), value=padding), best)
            best_scores = torch.where(better, ended_scores, best_scores)
            next_scores[:, :, end] = -torch.inf
        vocabulary_size = next_scores.size(2)
        scores, chosen = next_scores.flatten(1).topk(beams)  # [B, K] of K·V, the most likely first
        rows = (first + chosen // vocabulary_size).flatten()
        alive = torch.cat((alive[rows], (chosen % vocabulary_size).view(-1, 1)), 1)
        decoder.select(rows)
        if (best_scores >= scores[:, 0] / length_penalty(count, alpha)).all():  # further tokens only cost probability
            break
    unended = best_scores == -torch.inf
    likeliest = F.pad(alive[first.squeeze(1), start:], (0, count + start - alive.size(1)), value=padding)
    best = torch.where(unended.unsqueeze(1), likeliest, best)
    best_scores = torch.where(unended, scores[:, 0] / length_penalty(max(count, 1), alpha), best_scores)
    width = count if end is None else int((best != padding).sum(1).max())
    return best[:, :width], best_scores
