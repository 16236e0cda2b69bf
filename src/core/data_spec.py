"""DataSpec: the properties of the data from which a model is built."""

from dataclasses import dataclass
from math import prod
from typing import Any

from pydantic_core import SchemaValidator
from pydantic_core import core_schema as core

from src.core.records import check_schema, object_schema

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
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in dict(plain).items()}
        return cls(**check_schema(_SCHEMA, values, "the data spec in this checkpoint is damaged"))


MAX_SIZE = 2**31
"""Upper bound of the number of elements of an input or output, and of token ids."""


def _check_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    if prod(shape) >= MAX_SIZE:
        raise ValueError("too many elements")
    return shape


_SIZE = core.int_schema(ge=1, lt=MAX_SIZE)
_ID = core.int_schema(ge=0, lt=MAX_SIZE)
_SHAPE = core.tuple_schema([_SIZE], variadic_item_index=0, max_length=8)
_NAMES = core.tuple_schema([core.str_schema()], variadic_item_index=0)
_SCHEMA = SchemaValidator(
    object_schema(
        required={
            "task": core.str_schema(),  # `src.tasks.registry.check_task` checks the name
            "inputs": core.literal_schema(list(INPUTS)),
            "input_shape": core.no_info_after_validator_function(_check_size, _SHAPE | {"min_length": 1}),
            "output_shape": core.no_info_after_validator_function(_check_size, _SHAPE),
        },
        optional={
            **{name: core.nullable_schema(_SIZE) for name in ("vocabulary_size", "target_length")},
            **{name: core.nullable_schema(_ID) for name in ("padding_id", "start_id", "end_id")},
            "reserved_tokens": _ID,
            "stateful": core.bool_schema(),
            **{name: _NAMES for name in ("class_names", "feature_names", "target_names")},
        },
        others="forbid",
    )
)
