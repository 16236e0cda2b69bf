"""DataSpec: what a datamodule tells a model about its data."""

from dataclasses import dataclass
from math import prod
from typing import Any

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataSpec:
    """The facts about a data source from which a model is built.

    Args:
        task: the name of a task in `src.tasks.catalogue`.
        inputs: the kind of one input: ``vector`` [D], ``image`` [C, H, W], ``sequence`` [T, F] or ``tokens`` [T].
        input_shape: the shape of one input, without the batch dimension; the longest one where lengths vary.
        output_shape: the shape of one output: (classes,), () for binary classification, (targets,) for regression,
            (horizon, series) for forecasting, (classes,) a step for tagging, (vocabulary,) a position for language
            modelling and translation.
        vocabulary_size: number of input tokens, for ``tokens``.
        padding_id: the token that fills short sequences up; None where every sequence is full.
        start_id, end_id: the tokens that open and close a target sequence, for translation.
        target_length: the longest target sequence in tokens, with its start and end, for translation.
        reserved_tokens: how many first tokens of the vocabulary stand for no text, and are not generated; for language
            modelling.
        carry_state: row b of a batch goes on where row b of the batch before ended, in all splits, so that a recurrent
            model can carry its state over.
        class_names: names of the classes, in the order of the logits.
        feature_names: names of the input features.
        target_names: names of the targets or series.
    """

    task: str
    inputs: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    vocabulary_size: int | None = None
    padding_id: int | None = None
    start_id: int | None = None
    end_id: int | None = None
    target_length: int | None = None
    reserved_tokens: int = 0
    carry_state: bool = False
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()

    @property
    def input_size(self) -> int:
        """Numbers in one input, when it is flattened."""
        return prod(self.input_shape)

    @property
    def output_size(self) -> int:
        """Numbers in one output, when it is flattened."""
        return prod(self.output_shape)

    def to_plain(self) -> dict[str, Any]:
        """Return plain containers, for a checkpoint that loads with ``weights_only=True``."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "DataSpec":
        """Read back what `to_plain` wrote."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        return cls(**fields)
