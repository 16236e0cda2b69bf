"""From a model that reads tokens to a generated sequence: greedy, sampling, beam search (textbook, Decoder).

Every way of decoding asks a `Reader` for the logits of the next token; the reader may keep keys and values of the tokens
that it has read, which changes the time and nothing else.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from src.layers.attention import KeyValueCache
from src.layers.token_sampling import next_token

Caches: TypeAlias = list[tuple[KeyValueCache, KeyValueCache]]
"""For every block the keys and values of its self-attention, and those of its attention to a memory."""


class Reader:
    """Gives the logits of the next token after a growing sequence.

    Args:
        read: maps tokens [N, t], the position of the first of them, and caches to logits [N, V] after the last.
        new_caches: makes empty caches; None reads every sequence anew in each step.
        context: how many tokens may be looked back; None for all.
        never: tokens that are not generated, such as padding.
    """

    def __init__(
        self,
        read: Callable[[Tensor, int, Caches | None], Tensor],
        new_caches: Callable[[], Caches] | None = None,
        context: int | None = None,
        never: tuple[int, ...] = (),
    ) -> None:
        self.read = read
        self.caches = new_caches() if new_caches else None
        self.cached = 0
        self.context = context
        self.never = list(never)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return logits [N, V] after tokens [N, t], which continue the tokens of the last call."""
        window = tokens if self.context is None else tokens[:, -self.context :]
        if window.size(1) < tokens.size(1):  # the window moves on, and every token in it changes its position
            self.caches, self.cached = None, 0
        logits = self.read(window[:, self.cached :], self.cached, self.caches)
        if self.caches is not None:
            self.cached = window.size(1)
        if self.never:
            logits[:, self.never] = -torch.inf
        return logits

    def select(self, rows: Tensor) -> None:
        """Go on with these rows [N] of what was read; all that is read beside it (a memory) stays in its place."""
        for own, _ in self.caches or ():
            own.select(rows)


def stream(
    reader: Reader, tokens: Tensor, count: int, end: int | None, padding: int, temperature: float, **sampling: Any
) -> Iterator[Tensor]:
    """Yield the likeliest next tokens [B] again and again at temperature 0 (greedy), else samples, until all have ended.

    Args:
        reader: of the model.
        tokens: [B, t], from which to go on.
        count: the most tokens to generate.
        end: the token that ends a sequence; None where nothing does.
        padding: fills sequences that have ended.
        temperature, sampling: arguments of `next_token`.
    """
    ended = torch.zeros(tokens.size(0), dtype=torch.bool, device=tokens.device)
    for _ in range(count):
        chosen = next_token(reader(tokens), temperature, **sampling)
        if end is not None:
            chosen = chosen.masked_fill(ended, padding)
            ended |= chosen == end
        yield chosen
        tokens = torch.cat((tokens, chosen.unsqueeze(1)), 1)
        if ended.all():
            break


def sample(reader: Reader, tokens: Tensor, *how: Any, **sampling: Any) -> Tensor:
    """Return what `stream` yields as [B, N], N ≤ count; the arguments are the same."""
    chosen = stream(reader, tokens, *how, **sampling)
    return torch.cat((tokens[:, :0], *(token.unsqueeze(1) for token in chosen)), 1)


def penalty(length: int, alpha: float) -> float:
    """Return ((5 + length)/6)^α, by which the log-probability of a sequence is divided (Wu et al. 2016, equation 14).

    Args:
        length: in tokens, the end token included.
        alpha: 0 prefers short sequences, as every token costs probability; larger values prefer longer ones.
    """
    return ((5 + length) / 6) ** alpha


def beam_search(
    reader: Reader, tokens: Tensor, count: int, end: int | None, padding: int, beams: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Return the best sequence that is found by keeping the `beams` likeliest beginnings in every step.

    Each kept beginning may also end: the ended sequence is set aside if it is the best so far by its penalised
    log-probability, and takes no beam. The search stops when no beginning can come out better any more. A sequence
    that has not ended after `count` tokens is the answer only where none has ended.

    Args:
        reader: of the model, for B·beams rows; those of one example stand together.
        tokens: [B, t], from which to go on.
        count: the most tokens to generate.
        end: the token that ends a sequence; None where nothing does, and all have `count` tokens.
        padding: fills sequences that have ended.
        beams: beginnings kept for each example; with 1 this is not yet `sample`, which takes an end token at once.
        alpha: of `penalty`, 0 or more.

    Returns:
        [B, N] the generated tokens alone, N ≤ count, and their penalised log-probabilities [B].
    """
    assert beams >= 1 and alpha >= 0
    size, start = tokens.shape
    first = torch.arange(size, device=tokens.device).unsqueeze(1) * beams  # the first row of each example
    alive = tokens.repeat_interleave(beams, 0)  # [B·K, t]
    scores = torch.full((size, beams), -torch.inf, device=tokens.device)  # log-probabilities of the beginnings
    scores[:, 0] = 0.0  # all beginnings of an example are the same as yet, and one stands for them
    best = tokens.new_full((size, count), padding)
    best_scores = torch.full((size,), -torch.inf, device=tokens.device)
    for length in range(1, count + 1):
        grown = scores.unsqueeze(2) + reader(alive).log_softmax(-1).unflatten(0, (size, beams))  # [B, K, V]
        if end is not None:
            ended_scores, beam = (grown[:, :, end] / penalty(length, alpha)).max(1)
            ended = F.pad(alive[first.squeeze(1) + beam, start:], (0, 1), value=end)
            better = ended_scores > best_scores
            best = torch.where(better.unsqueeze(1), F.pad(ended, (0, count - length), value=padding), best)
            best_scores = torch.where(better, ended_scores, best_scores)
            grown[:, :, end] = -torch.inf
        scores, chosen = grown.flatten(1).topk(beams)  # [B, K] of K·V, the likeliest first
        rows = (first + chosen // grown.size(2)).flatten()
        alive = torch.cat((alive[rows], (chosen % grown.size(2)).view(-1, 1)), 1)
        reader.select(rows)
        if (best_scores >= scores[:, 0] / penalty(count, alpha)).all():  # what follows can only cost probability
            break
    unended = best_scores == -torch.inf
    likeliest = F.pad(alive[first.squeeze(1), start:], (0, count + start - alive.size(1)), value=padding)
    best = torch.where(unended.unsqueeze(1), likeliest, best)
    best_scores = torch.where(unended, scores[:, 0] / penalty(max(count, 1), alpha), best_scores)
    width = count if end is None else int((best != padding).sum(1).max())
    return best[:, :width], best_scores
