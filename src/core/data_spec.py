"""DataSpec: what a datamodule tells a model about its data."""

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
    """The facts about a data source from which a model is built.

    Args:
        task: the name of a task in `src.tasks.registry`.
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
        """Return plain containers, for a checkpoint, which holds nothing else."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_plain(cls, plain: Any) -> "DataSpec":
        """Read back what `to_plain` wrote, which may have been changed since.

        Raises:
            UserError: naming the field that is missing or not what it must be.
        """
        if not isinstance(plain, dict) or not {"task", "inputs", "input_shape", "output_shape"} <= plain.keys():
            raise UserError("the facts about the data in this checkpoint are damaged: fields are missing")
        known = {field.name for field in fields(cls)}
        found: dict[str, Any] = {}
        for key, value in plain.items():
            if key not in known:
                raise UserError(
                    f"the facts about the data in this checkpoint are damaged: there is no '{str(key)[:60]}'"
                )
            found[key] = tuple(value) if isinstance(value, list) else value
            if not _CHECKS[key](found[key]):
                raise UserError(f"the facts about the data in this checkpoint are damaged: '{key}' is wrong")
        return cls(**found)


LARGEST = 2**31
"""Numbers in one input or output are fewer."""


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < LARGEST


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(map(_is_size, value)) and prod(value) < LARGEST


def _is_id(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < LARGEST)


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) for name in value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "task": lambda value: isinstance(value, str),  # `src.tasks.registry.check_task` knows the names
    "inputs": lambda value: isinstance(value, str) and value in INPUTS,
    "input_shape": lambda value: value != () and _is_shape(value),
    "output_shape": _is_shape,
    "vocabulary_size": lambda value: value is None or _is_size(value),
    "padding_id": _is_id,
    "start_id": _is_id,
    "end_id": _is_id,
    "target_length": lambda value: value is None or _is_size(value),
    "reserved_tokens": lambda value: value is not None and _is_id(value),
    "carry_state": lambda value: isinstance(value, bool),
    "class_names": _are_names,
    "feature_names": _are_names,
    "target_names": _are_names,
}
"""What each field must be."""
