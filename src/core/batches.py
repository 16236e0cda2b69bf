"""The batches that datamodules yield: named tuples of tensors with the inputs of a model and its targets.

`inputs` are the positional arguments of the model's `forward`; `targets` are what the task compares the outputs with.
B is the batch size, T a number of time steps or tokens, F a number of features.
"""

from typing import NamedTuple, TypeAlias

from torch import Tensor


class LabelledBatch(NamedTuple):
    """Inputs of one shape with their targets.

    x: [B, *input_shape] float, or [B, T] int64 tokens.
    y: [B] int64 classes, [B] float 0/1, [B, K] float targets, or [B, horizon, series] float.
    """

    x: Tensor
    y: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x,)

    @property
    def targets(self) -> Tensor:
        return self.y


class SequenceBatch(NamedTuple):
    """Sequences of different lengths, padded to the longest.

    x: [B, T, F] float or [B, T] int64 tokens. lengths: [B] int64, 1 to T. y: as in `LabelledBatch`.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x, self.lengths)

    @property
    def targets(self) -> Tensor:
        return self.y


class LanguageBatch(NamedTuple):
    """Windows of a text. tokens: [B, T + 1] int64; the target of position t is the token at position t + 1."""

    tokens: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.tokens[:, :-1],)

    @property
    def targets(self) -> Tensor:
        return self.tokens[:, 1:]


class TranslationBatch(NamedTuple):
    """Pairs of token sequences.

    source: [B, S] int64, padded. target: [B, T] int64, start token first, end token last, padded.
    """

    source: Tensor
    target: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.source, self.target[:, :-1])

    @property
    def targets(self) -> Tensor:
        return self.target[:, 1:]


Batch: TypeAlias = LabelledBatch | SequenceBatch | LanguageBatch | TranslationBatch
