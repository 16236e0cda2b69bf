"""DataSpec: the properties of the data from which a model is built."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import prod
from typing import Any

from src.core.errors import UserError

INPUTS = ("vector", "image", "sequence", "tokens")
"""The kinds of one input."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataSpec:
    """The properties of a data source from which a model is built.

    Args:
        task: the name of a task in `src.tasks.registry`.
        inputs: the kind of one input: ``vector`` [D], ``image`` [C, H, W], ``sequence`` [T, F] or ``tokens`` [T].
        input_shape: the shape of one input, without the batch dimension; the longest one where lengths vary.
        output_shape: the shape of one output: (classes,), () for binary classification, (targets,) for regression,
            (horizon, series) for forecasting, (classes,) a step for tagging, (vocabulary,) a position for language
            modelling and translation.
        vocabulary_size: number of input tokens, for ``tokens``.
        padding_id: the token that pads short sequences; None if all sequences have the same length.
        start_id, end_id: the first and the last token of a target sequence, for translation.
        target_length: the maximum length of a target sequence in tokens, with its start and end, for translation.
        reserved_tokens: number of tokens at the start of the vocabulary that represent no text and are not generated, for
            language modelling.
        stateful: row b of a batch continues row b of the previous batch, in all splits, so that a recurrent model can
            carry its state from batch to batch.
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
    stateful: bool = False
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()

    @property
    def input_size(self) -> int:
        """Number of elements of one input."""
        return prod(self.input_shape)

    @property
    def output_size(self) -> int:
        """Number of elements of one output."""
        return prod(self.output_shape)

    def to_plain(self) -> dict[str, Any]:
        """Return plain containers, for a checkpoint."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_plain(cls, plain: Any) -> "DataSpec":
        """Build a spec from the result of `to_plain` in a checkpoint, which may be damaged.

        Raises:
            UserError: if a field is missing or invalid; the message names it.
        """
        if not isinstance(plain, dict) or not {"task", "inputs", "input_shape", "output_shape"} <= plain.keys():
            raise UserError("the data spec in this checkpoint is damaged: fields are missing")
        names = {field.name for field in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in plain.items():
            if key not in names:
                raise UserError(f"the data spec in this checkpoint is damaged: there is no field '{str(key)[:60]}'")
            values[key] = tuple(value) if isinstance(value, list) else value
            if not _CHECKS[key](values[key]):
                raise UserError(f"the data spec in this checkpoint is damaged: '{key}' is invalid")
        return cls(**values)


MAX_SIZE = 2**31
"""Upper bound of the number of elements of an input or output, and of token ids."""


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < MAX_SIZE


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(map(_is_size, value)) and prod(value) < MAX_SIZE


def _is_id(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < MAX_SIZE)


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) for name in value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "task": lambda value: isinstance(value, str),  # `src.tasks.registry.check_task` checks the name
    "inputs": lambda value: isinstance(value, str) and value in INPUTS,
    "input_shape": lambda value: value != () and _is_shape(value),
    "output_shape": _is_shape,
    "vocabulary_size": lambda value: value is None or _is_size(value),
    "padding_id": _is_id,
    "start_id": _is_id,
    "end_id": _is_id,
    "target_length": lambda value: value is None or _is_size(value),
    "reserved_tokens": lambda value: value is not None and _is_id(value),
    "stateful": lambda value: isinstance(value, bool),
    "class_names": _are_names,
    "feature_names": _are_names,
    "target_names": _are_names,
}
"""Check of the value of each field."""
