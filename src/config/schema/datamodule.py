"""Schemas of the config group `datamodule`."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationInfo, model_validator

from src.config.schema.base import (
    Count,
    Examples,
    Fraction,
    Length,
    NonNegative,
    Option,
    Seed,
    Share,
    UserPath,
    Width,
    Workers,
)


def _check_training_share(test_fraction: float, info: ValidationInfo) -> float:
    if (val_fraction := info.data.get("val_fraction", 0)) + test_fraction >= 1:
        raise ValueError(
            f"with val_fraction={val_fraction} nothing is left for training; together they must be below 1"
        )
    return test_fraction


TestFraction = Annotated[Fraction, AfterValidator(_check_training_share)]


class DataOption(Option):
    """A data source, its task and the kind of its inputs. None: known only after loading."""

    task: ClassVar[str | None] = None
    inputs: ClassVar[str | None] = None
    raw: ClassVar[str | None] = None
    """Kind of the raw examples, if these can be augmented: text or audio."""
    batch_size: Examples = 64
    default_epochs: PositiveInt = 30
    seed: Seed = 0
    shuffle: bool = True

    def files(self) -> dict[str, Path]:
        """Return the user's files that training reads, by key."""
        return {}

    def folders(self) -> dict[str, Path]:
        """Return the user's folders that training reads, by key."""
        return {}

    def arguments(self) -> dict[str, Any]:
        return {key: value for key, value in super().arguments().items() if key != "default_epochs"}


class Split(DataOption):
    """Data without a predefined split: the parts are drawn once, with a separate seed."""

    split_seed: Seed
    val_fraction: Fraction
    test_fraction: TestFraction


class Digits(Split):
    task = "classification"
    inputs = "image"


class Shapes(DataOption):
    task = "classification"
    inputs = "image"
    side: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3]
    train_size: Annotated[Examples, Field(ge=10)]
    val_size: Annotated[Examples, Field(ge=10)]
    test_size: Annotated[Examples, Field(ge=10)]
    noise: NonNegative
    split_seed: Seed


class BreastCancer(Split):
    task = "binary_classification"
    inputs = "vector"


class Wine(Split):
    task = "classification"
    inputs = "vector"


class Diabetes(Split):
    task = "regression"
    inputs = "vector"


def _check_increasing(interval: list[float]) -> list[float]:
    if interval[0] >= interval[1]:
        raise ValueError("the first number must be below the second")
    return interval


class Function(DataOption):
    task = "regression"
    inputs = "vector"
    function: Literal["sine", "chirp", "absolute", "runge", "step", "square", "sawtooth"]
    range: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_check_increasing)]
    train_size: Examples
    val_size: Examples
    test_size: Annotated[Examples, Field(ge=2)]
    noise: NonNegative
    split_seed: Seed


class MackeyGlass(DataOption):
    task = "forecasting"
    inputs = "sequence"
    length: Length
    window: Length
    horizon: Length
    tau: Annotated[int, Field(gt=0, le=10_000)]
    val_fraction: Fraction
    test_fraction: TestFraction


def _check_unique(columns: list[str]) -> list[str]:
    for column in columns:
        if columns.count(column) > 1:
            raise ValueError(f"'{column}' is named more than once")
    return columns


Columns = Annotated[list[str], AfterValidator(_check_unique)]
"""Columns of columns of a table."""


class Series(DataOption):
    task = "forecasting"
    inputs = "sequence"
    path: UserPath
    column: str | Annotated[Columns, Field(min_length=1)] | None
    covariates: Columns = []
    time_column: str | None = None
    window: Length
    horizon: Length
    val_fraction: Fraction
    test_fraction: TestFraction

    def files(self) -> dict[str, Path]:
        return {"path": self.path}

    @model_validator(mode="after")
    def _check_covariates(self) -> "Series":
        targets = [self.column] if isinstance(self.column, str) else self.column or []
        if overlap := sorted(set(targets) & set(self.covariates)):
            raise ValueError(f"covariates={overlap}: a forecast column is always an input; leave it out of covariates")
        return self


class GeneratedData(DataOption):
    """Generated examples, drawn once for each split, with a separate seed."""

    train_size: Examples
    val_size: Examples
    test_size: Examples
    split_seed: Seed


class Adding(GeneratedData):
    task = "regression"
    inputs = "sequence"
    lag: Length


class Copy(GeneratedData):
    task = "tagging"
    inputs = "tokens"
    lag: Annotated[Count, Field(le=10**6)]
    symbols: Length


class Dates(GeneratedData):
    task = "translation"
    inputs = "tokens"
    languages: Annotated[list[str], Field(min_length=1)]


BytePairs = Annotated[Width, Field(gt=260)]
"""Tokens of a byte-pair vocabulary: 256 bytes, 4 special tokens, and pairs."""


class TextWindows(DataOption):
    """Windows of a text, in the order of the text."""

    task = "language_modelling"
    inputs = "tokens"
    tokens: Literal["characters", "byte_pairs"] = "characters"
    vocabulary_size: BytePairs = 4000
    context: Length
    stateful: bool
    val_fraction: Fraction
    test_fraction: TestFraction


class Text(TextWindows):
    path: UserPath
    memory_share: Share = 0.5

    def files(self) -> dict[str, Path]:
        return {"path": self.path}


class ImageSet(DataOption):
    task = "classification"
    inputs = "image"
    val_fraction: Fraction
    split_seed: Seed
    verify: bool


class TinyShakespeare(TextWindows):
    vocabulary_size: BytePairs = 2000
    verify: bool


class ETT(DataOption):
    task = "forecasting"
    inputs = "sequence"
    variant: Literal["h1", "h2", "m1", "m2"]
    window: Length
    horizon: Length
    verify: bool


def _without_none(**paths: Path | None) -> dict[str, Path]:
    return {key: path for key, path in paths.items() if path is not None}


class TextClassification(Split):
    task = "classification"
    inputs = "tokens"
    raw = "text"
    path: UserPath
    text_column: str
    label_column: str
    val_path: UserPath | None
    test_path: UserPath | None
    min_frequency: PositiveInt
    max_length: Length
    lowercase: bool

    def files(self) -> dict[str, Path]:
        return _without_none(path=self.path, val_path=self.val_path, test_path=self.test_path)


class TranslationData(DataOption):
    """Texts and their translations."""

    task = "translation"
    inputs = "tokens"
    tokens: Literal["characters", "words", "byte_pairs"]
    vocabulary_size: BytePairs = 8000
    lowercase: bool
    min_frequency: PositiveInt
    max_length: Length


class _TableTask:
    """Descriptor of the task of a table: the default for the class, the configured kind for an instance."""

    def __get__(self, instance: Any, owner: type) -> str:
        return "classification" if instance is None else instance.kind


class Table(Split):
    task: ClassVar[Any] = _TableTask()
    inputs = "vector"
    path: UserPath
    target_column: str | Annotated[Columns, Field(min_length=1)]
    kind: Literal["classification", "binary_classification", "regression"]
    columns: Columns | None
    ignore: list[str]
    categories: list[str]
    missing: list[str]
    group_column: str | None
    val_path: UserPath | None
    test_path: UserPath | None

    def files(self) -> dict[str, Path]:
        return _without_none(path=self.path, val_path=self.val_path, test_path=self.test_path)

    @model_validator(mode="after")
    def _check_target_column(self) -> "Table":
        if self.kind != "regression" and not isinstance(self.target_column, str):
            raise ValueError(f"target_column={self.target_column}: only kind=regression supports several columns")
        return self


class ParallelText(TranslationData, Split):
    path: UserPath
    target_path: UserPath | None

    def files(self) -> dict[str, Path]:
        return _without_none(path=self.path, target_path=self.target_path)


Language = Literal["en", "de", "fr", "cs"]


def _check_two_languages(languages: list[str]) -> list[str]:
    if len(set(languages)) < 2:
        raise ValueError("must be two different languages")
    return languages


def _check_test_languages(test: str, info: ValidationInfo) -> str:
    if "cs" in info.data.get("languages", ()) and test.startswith("2017"):
        raise ValueError("this test set is not published in Czech; 2016_flickr and 2018_flickr are")
    return test


class Multi30k(TranslationData):
    languages: Annotated[list[Language], Field(min_length=2, max_length=2), AfterValidator(_check_two_languages)]
    test: Annotated[
        Literal["2016_flickr", "2017_flickr", "2017_mscoco", "2018_flickr"], AfterValidator(_check_test_languages)
    ]
    verify: bool


class Audio(DataOption):
    task = "classification"
    inputs = "image"
    raw = "audio"
    sample_rate: Annotated[int, Field(gt=0, le=768_000)] | None
    seconds: Annotated[float, Field(gt=0, le=3600)]
    features: Literal["log_mel", "waveform"]
    n_fft: Annotated[int, Field(gt=0, le=2**16)]
    hop: Length
    n_mels: Annotated[int, Field(gt=0, le=1024)]
    memory_share: Share = 0.5
    workers: Workers | None = None
    split_seed: Seed
    val_fraction: Fraction


def _check_pattern(pattern: str | None) -> str | None:
    if pattern is not None and pattern.count("{label}") != 1:
        raise ValueError("a pattern must contain {label} once, such as '{label}_*.wav'")
    return pattern


class AudioFolder(Audio):
    path: UserPath
    pattern: Annotated[str | None, AfterValidator(_check_pattern)]
    val_path: UserPath | None
    test_path: UserPath | None
    test_fraction: TestFraction

    def folders(self) -> dict[str, Path]:
        return _without_none(path=self.path, val_path=self.val_path, test_path=self.test_path)


class FSDD(Audio):
    verify: bool


Side = Annotated[int, Field(gt=0, le=8192)]
"""Height or width of an image in pixels; `src.datamodules.io.image_files` decodes images of up to 8192 × 8192."""


def _check_size(size: Any) -> Any:
    if size is not None and not (isinstance(size, list) and len(size) == 2):
        raise ValueError("must be the height and width of an image, such as [64,64]")
    return size


class ImageFolder(Split):
    task = "classification"
    inputs = "image"
    path: UserPath
    pattern: Annotated[str | None, AfterValidator(_check_pattern)]
    val_path: UserPath | None
    test_path: UserPath | None
    size: Annotated[list[Side] | None, BeforeValidator(_check_size)]
    channels: Literal[1, 3] | None
    memory_share: Share
    workers: Workers | None

    def folders(self) -> dict[str, Path]:
        return _without_none(path=self.path, val_path=self.val_path, test_path=self.test_path)
