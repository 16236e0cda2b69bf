"""The types of what a run folder records. Records may come from someone else: no value of another type passes.

`RunRecord` is run.json.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from src.core.records import FORMAT_VERSION, RecordError, VersionError, check_schema
from src.core.wandb_account import RUN_ID

Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Real = FiniteFloat | Integer
"""A number that fits into a float; an integer of JSON may have thousands of digits."""

Number = Real | None
Count = Annotated[int, Field(ge=0, lt=2**63)]


def _date(text: str) -> str:
    datetime.fromisoformat(text).timestamp()  # which refuses what is no date, and what no clock can show
    return text


Date = Annotated[str, Field(max_length=40), AfterValidator(_date)]
Metrics = dict[Annotated[str, Field(max_length=1000)], Number]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Git(_Part):
    """The revision of the code. See `src.run_store.provenance.git_state`."""

    revision: str
    branch: str | None = None
    diff: str = ""
    diff_complete: bool = False
    untracked: list[str] = []


class Wandb(_Part):
    """The run in Weights & Biases."""

    id: Annotated[str, Field(pattern=f"^{RUN_ID}$")]
    mode: Literal["online", "offline", "disabled"] | None = None
    url: str | None = None
    complete: bool = True


class GradientThroughTime(_Part):
    """Norms [T] of the gradient by lag. See `src.callbacks.gradient_through_time`."""

    before: list[Real] = []
    after: Annotated[list[Real], Field(min_length=1)]


class RecurrentComparison(_Part):
    """What a run of a recurrent comparison cost and reached. See `src.callbacks.recurrent_comparison`."""

    bytes: Count
    seconds: Number = None
    epochs: Count | None = None
    test: Metrics = {}
    trivial: Number = None


class RunRecord(_Part):
    """What run.json holds. Callbacks of users add entries of their own, which are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    format_version: int = FORMAT_VERSION
    status: Literal["running", "interrupted", "failed", "pruned", "finished", "unknown"]
    config_hash: str | None = None
    seed: Integer | None = None
    started: Date | None = None
    ended: Date | None = None
    seconds: Annotated[FiniteFloat, Field(ge=0)] | Annotated[Integer, Field(ge=0)] | None = None
    resumed: list[Date] = []
    command: str | None = None
    git: Git | None = None
    packages: dict[str, str] = {}
    hardware: dict[str, str | Integer | float | None] = {}
    host: str | None = None
    pid: Integer | None = None
    wandb: Wandb | None = None
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    parameters: Count | None = None
    multiply_adds: Count | None = None
    best_epoch: Count | None = None
    best_since: Count | None = None
    value: Number = None
    best: Metrics = {}
    final: Metrics = {}
    error: str | None = None
    tags: list[str] = []
    notes: str | None = None
    archived: Date | None = None
    gradient_through_time: GradientThroughTime | dict[Literal["before"], list[Real]] | None = None
    recurrent_comparison: RecurrentComparison | None = None


def run_record(entries: Any, name: object) -> dict[str, Any]:
    """Return a record of a run with values of the right types only.

    Args:
        entries: as parsed.
        name: what they are read from, for the error.

    Returns:
        The fields that the record has.

    Raises:
        RecordError: if the record is of another version, or if a value is of another type.
    """
    if not isinstance(entries, dict):
        raise RecordError(f"{name}: this is not a record: an object is expected")
    version = entries.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise VersionError(name, version)
    try:
        checked = check_schema(RunRecord, entries, name).model_dump(exclude_unset=True)
    except (OverflowError, OSError) as error:
        raise RecordError(f"{name}: a date is out of range") from error
    return {key: checked[key] for key in entries}  # in the order of the file, which is written anew


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


def run_config(entries: dict[Any, Any], name: object) -> dict[str, Any]:
    """Return a recorded config whose sections, tags and notes have the right types; `src.config.validate` knows the rest.

    Args:
        entries: as parsed.
        name: what they are read from, for the error.

    Raises:
        RecordError: if one is of another type.
    """
    config = {str(key): value for key, value in entries.items()}
    for key in _SECTIONS:
        if not isinstance(config.get(key), dict | None):
            raise RecordError(f"{name}: {key}: this is no section of a config")
        if not isinstance((config.get(key) or {}).get("name"), str | None):
            raise RecordError(f"{name}: {key}.name: this is no text")
    tags = config.get("tags")
    if not (tags is None or (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags))):
        raise RecordError(f"{name}: tags: these are no texts")
    if not isinstance(config.get("notes"), str | None):
        raise RecordError(f"{name}: notes: this is no text")
    return config


class Example(_Part):
    """An example of the test split: what the model predicted beside the truth, in the data's own units."""

    truth: Any
    prediction: Any
    probability: Number = None
    input: str | None = None


class Predictions(_Part):
    """What answers.json holds. See `src.callbacks.predictions.Answers`."""

    format_version: int = FORMAT_VERSION
    split: str = "test"
    classes: list[str] = []
    confusion: list[list[Count]] | None = None
    true: list[list[Real]] | None = None
    predicted: list[list[Real]] | None = None
    examples: list[Example] = []

    @model_validator(mode="after")
    def _has_matching_sizes(self) -> "Predictions":
        size = len(self.classes)
        if self.confusion is not None and [len(row) for row in self.confusion] != [size] * size:
            raise ValueError("the confusion must have a row and a column for each class")
        if [len(row) for row in self.true or ()] != [len(row) for row in self.predicted or ()]:
            raise ValueError("there must be as many predicted numbers as true ones")
        return self


def predictions(entries: Any, name: object) -> dict[str, Any]:
    """Return predictions with values of the right types only.

    Args:
        entries: as parsed.
        name: what they are read from, for the error.

    Raises:
        RecordError: if a value is of another type, or if the sizes do not match.
    """
    found = check_schema(Predictions, entries, name)
    if found.format_version != FORMAT_VERSION:
        raise VersionError(name, found.format_version)
    plain = found.model_dump(exclude_unset=True)
    return {"classes": [], "confusion": None, "examples": []} | plain
