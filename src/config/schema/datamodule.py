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

# ---- data --------------------------------------------------------------------------------------------------------


def _leaves_training(test_fraction: float, info: ValidationInfo) -> float:
    if (val_fraction := info.data.get("val_fraction", 0)) + test_fraction >= 1:
        raise ValueError(
            f"with val_fraction={val_fraction} nothing is left for training; together they must be below 1"
        )
    return test_fraction


TestFraction = Annotated[Fraction, AfterValidator(_leaves_training)]


class DataOption(Option):
    """A data source, its task and the kind of its inputs; None where only loading tells."""

    task: ClassVar[str | None] = None
    inputs: ClassVar[str | None] = None
    raw: ClassVar[str | None] = None
    """What an example is before it becomes an input, where that can be augmented: text or audio."""
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
    """Data without a split of their own: parts are drawn once, with their own seed."""

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


def _rises(interval: list[float]) -> list[float]:
    if interval[0] >= interval[1]:
        raise ValueError("the first number must be below the second")
    return interval


class Function(DataOption):
    task = "regression"
    inputs = "vector"
    function: Literal["sine", "chirp", "absolute", "runge", "step", "square", "sawtooth"]
    range: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_rises)]
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


def _each_once(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is named more than once")
    return names


Names = Annotated[list[str], AfterValidator(_each_once)]
"""Columns of a table."""


class Series(DataOption):
    task = "forecasting"
    inputs = "sequence"
    path: UserPath
    column: str | Annotated[Names, Field(min_length=1)] | None
    covariates: Names = []
    time_column: str | None = None
    window: Length
    horizon: Length
    val_fraction: Fraction
    test_fraction: TestFraction

    def files(self) -> dict[str, Path]:
        return {"path": self.path}

    @model_validator(mode="after")
    def _seen_once(self) -> "Series":
        targets = [self.column] if isinstance(self.column, str) else self.column or []
        if both := sorted(set(targets) & set(self.covariates)):
            raise ValueError(f"covariates={both}: the model sees what it forecasts anyway; leave it out of covariates")
        return self


class Drawn(DataOption):
    """Generated data: so many examples a split, drawn once, with a seed of their own."""

    train_size: Examples
    val_size: Examples
    test_size: Examples
    split_seed: Seed


class Adding(Drawn):
    task = "regression"
    inputs = "sequence"
    lag: Length


class Copy(Drawn):
    task = "tagging"
    inputs = "tokens"
    lag: Annotated[Count, Field(le=10**6)]
    symbols: Length


class Dates(Drawn):
    task = "translation"
    inputs = "tokens"
    languages: Annotated[list[str], Field(min_length=1)]


BytePairs = Annotated[Width, Field(gt=260)]
"""Tokens of a byte-pair vocabulary: 256 bytes, 4 special tokens, and pairs."""


class TextWindows(DataOption):
    """Windows of a text, in its own order."""

    task = "language_modelling"
    inputs = "tokens"
    tokens: Literal["characters", "byte_pairs"] = "characters"
    vocabulary_size: BytePairs = 4000
    context: Length
    carry_state: bool
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
    verify: bool


class ETT(DataOption):
    task = "forecasting"
    inputs = "sequence"
    variant: Literal["h1", "h2", "m1", "m2"]
    window: Length
    horizon: Length
    verify: bool


def _given(**paths: Path | None) -> dict[str, Path]:
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
        return _given(path=self.path, val_path=self.val_path, test_path=self.test_path)


class Translating(DataOption):
    """Texts and their translations."""

    task = "translation"
    inputs = "tokens"
    tokens: Literal["characters", "words", "byte_pairs"]
    vocabulary_size: BytePairs = 8000
    lowercase: bool
    min_frequency: PositiveInt
    max_length: Length


class _Asked:
    """The task of a table: of the option, the usual one; of a chosen one, what it asks."""

    def __get__(self, chosen: Any, option: type) -> str:
        return "classification" if chosen is None else chosen.kind


class CSV(Split):
    task: ClassVar[Any] = _Asked()
    inputs = "vector"
    path: UserPath
    target_column: str | Annotated[Names, Field(min_length=1)]
    kind: Literal["classification", "binary_classification", "regression"]
    columns: Names | None
    ignore: list[str]
    categories: list[str]
    missing: list[str]
    group_column: str | None
    val_path: UserPath | None
    test_path: UserPath | None

    def files(self) -> dict[str, Path]:
        return _given(path=self.path, val_path=self.val_path, test_path=self.test_path)

    @model_validator(mode="after")
    def _one_class(self) -> "CSV":
        if self.kind != "regression" and not isinstance(self.target_column, str):
            raise ValueError(f"target_column={self.target_column}: several columns are told by kind=regression only")
        return self


class ParallelText(Translating, Split):
    path: UserPath
    target_path: UserPath | None

    def files(self) -> dict[str, Path]:
        return _given(path=self.path, target_path=self.target_path)


Language = Literal["en", "de", "fr", "cs"]


def _two_different(languages: list[str]) -> list[str]:
    if len(set(languages)) < 2:
        raise ValueError("a translation has two languages")
    return languages


def _in_both_languages(test: str, info: ValidationInfo) -> str:
    if "cs" in info.data.get("languages", ()) and test.startswith("2017"):
        raise ValueError("this test set is not published in Czech; 2016_flickr and 2018_flickr are")
    return test


class Multi30k(Translating):
    languages: Annotated[list[Language], Field(min_length=2, max_length=2), AfterValidator(_two_different)]
    test: Annotated[
        Literal["2016_flickr", "2017_flickr", "2017_mscoco", "2018_flickr"], AfterValidator(_in_both_languages)
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


def _names_a_class(pattern: str | None) -> str | None:
    if pattern is not None and pattern.count("{label}") != 1:
        raise ValueError("a pattern has {label} once, such as '{label}_*.wav'")
    return pattern


class AudioFolder(Audio):
    path: UserPath
    pattern: Annotated[str | None, AfterValidator(_names_a_class)]
    val_path: UserPath | None
    test_path: UserPath | None
    test_fraction: TestFraction

    def folders(self) -> dict[str, Path]:
        return _given(path=self.path, val_path=self.val_path, test_path=self.test_path)


class FSDD(Audio):
    verify: bool


Side = Annotated[int, Field(gt=0, le=8192)]
"""Pixels of a side of an image; `src.datamodules.io.image_files` decodes images of up to 8192 × 8192."""


def _two_sides(size: Any) -> Any:
    if size is not None and not (isinstance(size, list) and len(size) == 2):
        raise ValueError("height and width of an image, such as [64,64]")
    return size


class ImageFolder(Split):
    task = "classification"
    inputs = "image"
    path: UserPath
    pattern: Annotated[str | None, AfterValidator(_names_a_class)]
    val_path: UserPath | None
    test_path: UserPath | None
    size: Annotated[list[Side] | None, BeforeValidator(_two_sides)]
    channels: Literal[1, 3] | None
    memory_share: Share
    workers: Workers | None

    def folders(self) -> dict[str, Path]:
        return _given(path=self.path, val_path=self.val_path, test_path=self.test_path)
