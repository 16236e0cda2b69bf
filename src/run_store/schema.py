"""Typed schemas of the records in a run folder. Records may come from someone else, so values of other types are rejected.

The schemas use pydantic-core alone, because importing pydantic and building model classes takes longer than reading the
records of a thousand runs.
"""

from datetime import datetime
from typing import Any

from pydantic_core import SchemaValidator
from pydantic_core import core_schema as core

from src.core.records import FORMAT_VERSION, RecordError, VersionError, check_schema, object_schema
from src.core.wandb_account import RUN_ID


def _date(text: str) -> str:
    datetime.fromisoformat(text).timestamp()  # raises for an invalid date, and for one that is out of range
    return text


_or_null = core.nullable_schema
_ANY = core.any_schema()
_TEXT = core.str_schema()
_TEXTS = core.list_schema(_TEXT)
_BOOLEAN = core.bool_schema()
_VERSION = core.int_schema()
_INTEGER = core.int_schema(ge=-(2**63), lt=2**63)
_COUNT = core.int_schema(ge=0, lt=2**63)
_REAL = core.union_schema([core.float_schema(allow_inf_nan=False), _INTEGER])
"""A number that fits into a float; an integer of JSON may have thousands of digits."""
_REALS = core.list_schema(_REAL)
_NUMBER = _or_null(_REAL)
_DATE = core.no_info_after_validator_function(_date, core.str_schema(max_length=40))
_METRICS = core.dict_schema(core.str_schema(max_length=1000), _NUMBER)

_GIT = object_schema(
    required={"revision": _TEXT},
    optional={"branch": _or_null(_TEXT), "diff": _TEXT, "diff_complete": _BOOLEAN, "untracked": _TEXTS},
)
"""The revision of the code. See `src.run_store.provenance.git_state`."""

_WANDB = object_schema(
    required={"id": core.str_schema(pattern=f"^{RUN_ID}$")},
    optional={
        "mode": _or_null(core.literal_schema(["online", "offline", "disabled"])),
        "url": _or_null(_TEXT),
        "complete": _BOOLEAN,
    },
)
"""The run in Weights & Biases."""

_GRADIENT_THROUGH_TIME = core.union_schema(
    [
        object_schema(required={"after": core.list_schema(_REAL, min_length=1)}, optional={"before": _REALS}),
        core.dict_schema(core.literal_schema(["before"]), _REALS),
    ]
)
"""Norms of the gradient by lag, [T]. See `src.callbacks.gradient_through_time`."""

_RECURRENT_COMPARISON = object_schema(
    required={"bytes": _COUNT},
    optional={"seconds": _NUMBER, "epochs": _or_null(_COUNT), "test": _METRICS, "baseline": _NUMBER},
)
"""Cost and result of a run of a recurrent comparison. See `src.callbacks.recurrent_comparison`."""

_RUN_RECORD = SchemaValidator(
    object_schema(
        required={
            "status": core.literal_schema(["running", "interrupted", "failed", "pruned", "finished", "unknown"]),
        },
        optional={
            "format_version": _VERSION,
            "config_hash": _or_null(_TEXT),
            "seed": _or_null(_INTEGER),
            "started": _or_null(_DATE),
            "ended": _or_null(_DATE),
            "seconds": _or_null(core.union_schema([core.float_schema(allow_inf_nan=False, ge=0), _COUNT])),
            "resumed": core.list_schema(_DATE),
            "command": _or_null(_TEXT),
            "git": _or_null(_GIT),
            "packages": core.dict_schema(_TEXT, _TEXT),
            "hardware": core.dict_schema(_TEXT, _or_null(core.union_schema([_TEXT, _INTEGER, core.float_schema()]))),
            "host": _or_null(_TEXT),
            "pid": _or_null(_INTEGER),
            "wandb": _or_null(_WANDB),
            "monitor": _or_null(_TEXT),
            "mode": _or_null(core.literal_schema(["min", "max"])),
            "parameters": _or_null(_COUNT),
            "multiply_adds": _or_null(_COUNT),
            "best_epoch": _or_null(_COUNT),
            "best_since": _or_null(_COUNT),
            "value": _NUMBER,
            "best": _METRICS,
            "final": _METRICS,
            "error": _or_null(_TEXT),
            "tags": _TEXTS,
            "notes": _or_null(_TEXT),
            "archived": _or_null(_DATE),
            "gradient_through_time": _or_null(_GRADIENT_THROUGH_TIME),
            "recurrent_comparison": _or_null(_RECURRENT_COMPARISON),
        },
        others="allow",
    ),
)
"""Schema of run.json. Callbacks of users may add entries of their own."""


def validate_record(entries: Any, name: object) -> dict[str, Any]:
    """Return the record of a run after validating its types.

    Args:
        entries: the parsed record.
        name: path of the file, for the error.

    Returns:
        The fields of the record.

    Raises:
        RecordError: if the record has another format version, or if a value has a wrong type.
    """
    if not isinstance(entries, dict):
        raise RecordError(f"{name}: this is not a record: expected an object")
    version = entries.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise VersionError(name, version)
    try:
        checked = check_schema(_RUN_RECORD, entries, name)
    except (OverflowError, OSError) as error:
        raise RecordError(f"{name}: a date is out of range") from error
    return {key: checked[key] for key in entries}  # in the order of the file, which may be rewritten


_SECTIONS = (
    "model",
    "datamodule",
    "optimizer",
    "scheduler",
    "trainer",
    "regularization",
    "paths",
    "logger",
    "callbacks",
)


def validate_config(entries: dict[Any, Any], name: object) -> dict[str, Any]:
    """Return a recorded config after validating the types of its sections, tags and notes; see `src.config.validate` for the
    rest.

    Args:
        entries: the parsed config.
        name: path of the file, for the error.

    Raises:
        RecordError: if a value has a wrong type.
    """
    config = {str(key): value for key, value in entries.items()}
    for key in _SECTIONS:
        if not isinstance(config.get(key), dict | None):
            raise RecordError(f"{name}: {key}: must be a section (a mapping)")
        if not isinstance((config.get(key) or {}).get("name"), str | None):
            raise RecordError(f"{name}: {key}.name: must be a string")
    tags = config.get("tags")
    if not (tags is None or (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags))):
        raise RecordError(f"{name}: tags: must be a list of strings")
    if not isinstance(config.get("notes"), str | None):
        raise RecordError(f"{name}: notes: must be a string")
    return config


def _check_sizes(entries: dict[str, Any]) -> dict[str, Any]:
    size = len(entries.get("classes", ()))
    if (confusion := entries.get("confusion")) is not None and [len(row) for row in confusion] != [size] * size:
        raise ValueError("the confusion must have a row and a column for each class")
    if [len(row) for row in entries.get("true") or ()] != [len(row) for row in entries.get("predicted") or ()]:
        raise ValueError("'predicted' and 'true' must have the same shape")
    return entries


_EXAMPLE = object_schema(
    required={"target": _ANY, "prediction": _ANY}, optional={"probability": _NUMBER, "input": _or_null(_TEXT)}
)
"""An example of the test split: the prediction of the model and the target, in the units of the data."""

_PREDICTIONS = SchemaValidator(
    core.no_info_after_validator_function(
        _check_sizes,
        object_schema(
            required={},
            optional={
                "format_version": _VERSION,
                "split": _TEXT,
                "classes": _TEXTS,
                "confusion": _or_null(core.list_schema(core.list_schema(_COUNT))),
                "true": _or_null(core.list_schema(_REALS)),
                "predicted": _or_null(core.list_schema(_REALS)),
                "examples": core.list_schema(_EXAMPLE),
            },
        ),
    ),
)
"""Schema of predictions.json. See `src.callbacks.predictions.Predictions`."""


def validate_predictions(entries: Any, name: object) -> dict[str, Any]:
    """Return predictions after validating their types and sizes.

    Args:
        entries: the parsed file.
        name: path of the file, for the error.

    Raises:
        RecordError: if a value has a wrong type, or if the sizes do not match.
    """
    checked = check_schema(_PREDICTIONS, entries, name)
    version = checked.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise VersionError(name, version)
    return {"classes": [], "confusion": None, "examples": []} | checked
