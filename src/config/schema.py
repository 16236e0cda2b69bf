"""What may stand in a config: the type and range of every key of every shipped option.

The values and the reasons for them are in conf/; here is what the command line is checked against, before torch is
loaded. An option that is not listed here, such as a user's own model, is checked against the signature of its class.
"""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationInfo,
    model_validator,
)

Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Decay = Annotated[float, Field(ge=0, lt=1)]
UserPath = Annotated[Path, Field(strict=False), AfterValidator(Path.absolute)]
"""A path that a user typed; recorded so that it is found from any working directory."""
Activation = Literal["tanh", "relu", "sigmoid", "gelu", "silu", "leaky_relu", "elu"]
Initialization = Literal["torch", "textbook", "glorot", "he"]


class Section(BaseModel):
    """A part of the config: no unknown keys, no silent conversions from text, nothing changed after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)


class Option(Section):
    """A choice within a config group: the class that it makes and the class's arguments."""

    target: str | None = Field(alias="_target_")
    name: str

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the class."""
        return {key: getattr(self, key) for key in self.__class__.model_fields if key not in ("target", "name")}


# ---- models ------------------------------------------------------------------------------------------------------

VECTORS = ("classification", "binary_classification", "regression", "forecasting")
IMAGES = ("classification", "binary_classification", "regression")


class ModelOption(Option):
    """An architecture, the tasks that it serves and the kinds of input that it reads."""

    tasks: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()
    carries_state: ClassVar[bool] = False
    built_in: ClassVar[tuple[str, ...]] = ()
    """Knobs of regularization that are part of the architecture, whatever they say."""


class MLP(ModelOption):
    tasks = VECTORS
    inputs = ("vector", "image", "sequence")
    hidden_sizes: list[PositiveInt]
    activation: Activation
    initialization: Initialization
    batch_norm: bool
    dropout: Probability
    drop_connect: Probability
    series: Literal["together", "apart"] = "together"
    from_last: bool = False


class MlpScratch(ModelOption):
    tasks = VECTORS
    inputs = ("vector", "image", "sequence")
    hidden_sizes: list[PositiveInt]
    activation: Activation
    initialization: Initialization


def _one_a_block(setting: Any, info: ValidationInfo) -> Any:
    blocks = len(info.data.get("channels", ()))
    if isinstance(setting, list) and blocks and len(setting) != blocks:
        raise ValueError(f"a list has one entry a block, and model.channels makes {blocks} blocks, not {len(setting)}")
    return setting


T = TypeVar("T")
PerBlock = Annotated[
    Annotated[T, Tag("one")] | Annotated[list[T], Tag("list")],
    Discriminator(lambda setting: "list" if isinstance(setting, list) else "one"),
    AfterValidator(_one_a_block),
]


class CNN(ModelOption):
    tasks = IMAGES
    inputs = ("image",)
    channels: Annotated[list[PositiveInt], Field(min_length=1)]
    kernel_size: PerBlock[PositiveInt]
    stride: PerBlock[PositiveInt]
    padding: PerBlock[Count | Literal["same"]]
    pool: PerBlock[Literal["max", "average", "none"]]
    pool_size: PerBlock[PositiveInt]
    pool_stride: PerBlock[PositiveInt] | None
    hidden_sizes: list[PositiveInt]
    activation: Activation
    initialization: Initialization
    batch_norm: bool
    dropout: Probability
    spatial_dropout: Probability
    drop_connect: Probability


class ResNet(ModelOption):
    tasks = IMAGES
    inputs = ("image",)
    built_in = ("batch_norm",)
    blocks_per_stage: PositiveInt
    widths: Annotated[list[PositiveInt], Field(min_length=1)]
    activation: Activation
    dropout: Probability
    stochastic_depth: Probability
    checkpoint_activations: bool = False


class Recurrent(ModelOption):
    tasks = (*VECTORS, "tagging", "language_modelling")
    inputs = ("image", "sequence", "tokens")
    carries_state = True
    cell: Literal["torch", "textbook"]
    hidden_size: PositiveInt
    num_layers: PositiveInt
    bidirectional: bool
    initial_state: Literal["zero", "learned"]
    embedding_size: PositiveInt
    dropout: Probability
    drop_connect: Probability


class Transformer(ModelOption):
    tasks = (*VECTORS, "language_modelling", "translation")
    inputs = ("image", "sequence", "tokens")
    d_model: PositiveInt
    num_heads: PositiveInt
    num_layers: PositiveInt
    d_ff: PositiveInt | None
    norm_first: bool
    activation: Activation
    positions: Literal["sinusoidal", "learned"]
    beams: PositiveInt
    length_penalty: NonNegative
    dropout: Probability
    stochastic_depth: Probability
    checkpoint_activations: bool = False

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Transformer":
        if self.d_model % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide d_model={self.d_model}")
        return self


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
    batch_size: PositiveInt = 64
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
    side: Annotated[int, Field(ge=8)]
    channels: Literal[1, 3]
    train_size: Annotated[int, Field(ge=10)]
    val_size: Annotated[int, Field(ge=10)]
    test_size: Annotated[int, Field(ge=10)]
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
    train_size: PositiveInt
    val_size: PositiveInt
    test_size: Annotated[int, Field(ge=2)]
    noise: NonNegative
    split_seed: Seed


class MackeyGlass(DataOption):
    task = "forecasting"
    inputs = "sequence"
    length: PositiveInt
    window: PositiveInt
    horizon: PositiveInt
    tau: PositiveInt
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
    window: PositiveInt
    horizon: PositiveInt
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

    train_size: PositiveInt
    val_size: PositiveInt
    test_size: PositiveInt
    split_seed: Seed


class Adding(Drawn):
    task = "regression"
    inputs = "sequence"
    lag: PositiveInt


class Copy(Drawn):
    task = "tagging"
    inputs = "tokens"
    lag: Count
    symbols: PositiveInt


class Dates(Drawn):
    task = "translation"
    inputs = "tokens"
    languages: Annotated[list[str], Field(min_length=1)]


BytePairs = Annotated[int, Field(gt=260)]
"""Tokens of a byte-pair vocabulary: 256 bytes, 4 special tokens, and pairs."""


class TextWindows(DataOption):
    """Windows of a text, in its own order."""

    task = "language_modelling"
    inputs = "tokens"
    tokens: Literal["characters", "byte_pairs"] = "characters"
    vocabulary_size: BytePairs = 4000
    context: PositiveInt
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
    window: PositiveInt
    horizon: PositiveInt
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
    max_length: PositiveInt
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
    max_length: PositiveInt


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
    sample_rate: PositiveInt | None
    seconds: PositiveFloat
    features: Literal["log_mel", "waveform"]
    n_fft: PositiveInt
    hop: PositiveInt
    n_mels: PositiveInt
    memory_share: Share = 0.5
    workers: Count | None = None
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
    size: Annotated[list[PositiveInt] | None, BeforeValidator(_two_sides)]
    channels: Literal[1, 3] | None
    memory_share: Share
    workers: Count | None

    def folders(self) -> dict[str, Path]:
        return _given(path=self.path, val_path=self.val_path, test_path=self.test_path)


# ---- optimizers and schedules --------------------------------------------------------------------------------------


class OptimizerOption(Option):
    lr: PositiveFloat
    weight_decay: NonNegative


def _velocity_leads(nesterov: bool, info: ValidationInfo) -> bool:
    if nesterov and not (info.data.get("momentum", 1) and info.data.get("dampening", 0) == 0):
        raise ValueError("Nesterov's form needs optimizer.momentum above 0 and optimizer.dampening=0")
    return nesterov


class SGD(OptimizerOption):
    momentum: Decay
    dampening: Decay
    nesterov: Annotated[bool, AfterValidator(_velocity_leads)]


class Adagrad(OptimizerOption):
    lr_decay: NonNegative
    initial_accumulator_value: NonNegative
    eps: PositiveFloat


class RMSprop(OptimizerOption):
    alpha: Decay
    eps: PositiveFloat
    momentum: Decay
    centered: bool


Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]


class Adam(OptimizerOption):
    betas: Betas
    eps: PositiveFloat
    amsgrad: bool


class RAdam(OptimizerOption):
    betas: Betas
    eps: PositiveFloat
    decoupled_weight_decay: bool


class AdaBound(OptimizerOption):
    betas: Betas
    eps: PositiveFloat
    final_lr: PositiveFloat
    gamma: PositiveFloat
    ams_bound: bool
    weight_decouple: bool


class NAdam(OptimizerOption):
    betas: Betas
    eps: PositiveFloat
    momentum_decay: NonNegative
    decoupled_weight_decay: bool


class Adamax(OptimizerOption):
    betas: Betas
    eps: PositiveFloat


class Adadelta(OptimizerOption):
    rho: Decay
    eps: PositiveFloat


class Lion(OptimizerOption):
    betas: Betas
    weight_decouple: bool


class TextbookMomentum(OptimizerOption):
    momentum: Decay
    nesterov: bool


class TextbookAdagrad(OptimizerOption):
    eps: PositiveFloat


class TextbookRMSprop(OptimizerOption):
    alpha: Decay
    eps: PositiveFloat


class SchedulerOption(Option):
    """A schedule of the learning rate; `interval` is the unit of its own lengths, the warm-up always counts steps."""

    interval: Literal["step", "epoch"]
    warmup_steps: Count

    def arguments(self) -> dict[str, Any]:
        return {key: value for key, value in super().arguments().items() if key not in ("interval", "warmup_steps")}


class Constant(SchedulerOption):
    pass


class StepDecay(SchedulerOption):
    step_size: PositiveInt
    gamma: Annotated[float, Field(gt=0, le=1)]


class Plateau(SchedulerOption):
    interval: Literal["epoch"]
    factor: Fraction
    patience: Count
    cooldown: Count
    threshold: NonNegative
    min_lr: NonNegative


class Exponential(SchedulerOption):
    gamma: Annotated[float, Field(gt=0, le=1)]


class Cosine(SchedulerOption):
    T_max: PositiveInt | None
    eta_min: NonNegative


class CosineRestarts(SchedulerOption):
    T_0: PositiveInt
    T_mult: PositiveInt
    eta_min: NonNegative


class InverseSqrt(SchedulerOption):
    interval: Literal["step"]
    d_model: PositiveInt | None


# ---- regularization, trainer and the rest ----------------------------------------------------------------------------


class Augmentation(Section):
    """Strength of each random change to training images; 0 is off. conf/train.yaml says what the numbers mean."""

    rotation: Annotated[float, Field(ge=0, le=180)]
    translate: Share
    scale: Probability
    shear: Annotated[float, Field(ge=0, lt=90)]
    crop: Count
    horizontal_flip: Share
    vertical_flip: Share
    colour_jitter: Share
    trivial_augment: Share
    rand_augment: Annotated[int, Field(ge=0, lt=30)]
    auto_augment: Share
    noise: NonNegative
    erasing: Share

    @model_validator(mode="after")
    def _one_policy(self) -> "Augmentation":
        policies = [name for name in ("trivial_augment", "rand_augment", "auto_augment") if getattr(self, name)]
        if len(policies) > 1:
            raise ValueError(f"{' and '.join(policies)} are policies of their own: one at a time, the others 0")
        return self

    def chosen(self) -> dict[str, float]:
        """Return the changes that are on."""
        return {name: strength for name, strength in self if strength}


def _one_kind_of_average(start: float | None, info: ValidationInfo) -> float | None:
    if start is not None and info.data.get("ema_decay"):
        raise ValueError("one average at a time: set regularization.ema_decay=0 or regularization.swa_start=null")
    return start


def _averages_at_all(lr: float | None, info: ValidationInfo) -> float | None:
    if lr is not None and info.data.get("swa_start") is None:
        raise ValueError("it is the learning rate of weight averaging: set regularization.swa_start, such as 0.75")
    return lr


class AudioAugmentation(Section):
    """Strength of each random change to training waveforms; 0 and null are off. conf/train.yaml says what they mean."""

    probability: Share
    time_stretch: Annotated[float, Field(ge=0, le=0.9)]
    pitch_shift: Annotated[float, Field(ge=0, le=24)]
    noise_snr: Annotated[list[float], Field(min_length=2, max_length=2)] | None

    @model_validator(mode="after")
    def _from_low_to_high(self) -> "AudioAugmentation":
        if self.noise_snr is not None and self.noise_snr[0] > self.noise_snr[1]:
            raise ValueError(f"noise_snr={self.noise_snr}: the lower end comes first")
        return self

    def chosen(self) -> list[str]:
        """Return the keys of the changes that are on."""
        changes = {"time_stretch": self.time_stretch, "pitch_shift": self.pitch_shift, "noise_snr": self.noise_snr}
        return [f"regularization.audio.{name}" for name, strength in changes.items() if strength and self.probability]


class Synonyms(Section):
    """Synonyms in training texts."""

    probability: Share
    lexicon: str

    def chosen(self) -> list[str]:
        """Return the keys that are on."""
        return ["regularization.synonyms.probability"] if self.probability else []


class BackTranslation(Section):
    """Paraphrases of training texts by two runs that translate there and back."""

    probability: Share
    forward: UserPath | None
    backward: UserPath | None

    @model_validator(mode="after")
    def _there_and_back(self) -> "BackTranslation":
        if (self.forward is None) != (self.backward is None):
            raise ValueError("there and back: both forward and backward are runs, or neither")
        return self

    def chosen(self) -> list[str]:
        """Return the keys that are on."""
        return ["regularization.back_translation.forward"] if self.forward and self.probability else []


def _one_kind_of_clipping(value: float | None, info: ValidationInfo) -> float | None:
    if value is not None and info.data.get("gradient_clip_norm") is not None:
        raise ValueError("gradients are clipped by norm or by value: set regularization.gradient_clip_norm=null")
    return value


class Regularization(Section):
    """The flat set of knobs; what serves them is told in conf/regularization/."""

    dropout: Probability
    drop_connect: Probability
    spatial_dropout: Probability
    stochastic_depth: Probability
    batch_norm: bool
    weight_decay: NonNegative
    weight_decay_by_layer: dict[str, NonNegative] | None
    decay_norms_and_biases: bool
    label_smoothing: Probability
    gradient_clip_norm: PositiveFloat | None
    gradient_clip_value: Annotated[PositiveFloat | None, AfterValidator(_one_kind_of_clipping)]
    early_stopping_patience: PositiveInt | None
    ema_decay: Decay
    swa_start: Annotated[Decay | None, AfterValidator(_one_kind_of_average)]
    swa_lr: Annotated[PositiveFloat | None, AfterValidator(_averages_at_all)]
    mixup_alpha: NonNegative
    cutmix_alpha: NonNegative
    augmentation: Augmentation
    audio: AudioAugmentation
    synonyms: Synonyms
    back_translation: BackTranslation

    def of_examples(self) -> dict[str, list[str]]:
        """Return the keys that are on and change raw examples, by the kind of example."""
        return {"audio": self.audio.chosen(), "text": self.synonyms.chosen() + self.back_translation.chosen()}


def _lasts(time: str | None) -> str | None:
    if time is not None and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", time):
        raise ValueError("days:hours:minutes:seconds, such as 00:12:00:00 for half a day")
    return time


def _names_devices(devices: Any) -> Any:
    numbers = devices if isinstance(devices, list) and devices else [devices]
    least = 0 if numbers is devices else 1
    if devices != "auto" and not all(type(number) is int and number >= least for number in numbers):
        raise ValueError("how many devices, from 1; or which, such as [0,2]; or auto")
    return devices


class TrainerOption(Section):
    """The part of Lightning's Trainer that a run may set."""

    name: str
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Annotated[Literal["auto"] | int | list[int], BeforeValidator(_names_devices)]
    num_nodes: Literal[1]
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"]
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
    max_epochs: PositiveInt
    max_steps: Annotated[int, Field(ge=-1)]
    max_time: Annotated[str | None, AfterValidator(_lasts)]
    accumulate_grad_batches: PositiveInt
    check_val_every_n_epoch: PositiveInt
    limit_train_batches: PositiveInt | Annotated[float, Field(gt=0, le=1)] | None
    limit_val_batches: PositiveInt | Annotated[float, Field(gt=0, le=1)] | None
    limit_test_batches: PositiveInt | Annotated[float, Field(gt=0, le=1)] | None
    log_every_n_steps: Count
    deterministic: bool | Literal["warn"]
    detect_anomaly: bool
    profiler: Literal["simple", "advanced", "pytorch"] | None
    sync_batchnorm: bool
    loop: Literal["auto", "lightning"] = "auto"


def _not_empty(path: Any) -> Any:
    if not str(path).strip():
        raise ValueError("a path must be given; . is this folder")
    return path


Folder = Annotated[Path, Field(strict=False), BeforeValidator(_not_empty)]


class Paths(Section):
    data: Folder
    outputs: Folder


def _one_folder(name: str | None) -> str | None:
    if name is not None and (not name.strip() or name.startswith(".") or any(mark in name for mark in "/\\=")):
        raise ValueError("it names one folder under sweeps/: letters and digits, no slash, '=' or dot in front")
    return name


class Sweep(Section):
    name: Annotated[str | None, AfterValidator(_one_folder)]
    resume: str | None = None
    retry_failed: bool = True
    dry_run: bool = False


class CrossValidation(Section):
    """Which part of training and validation data is validated on, of how many."""

    folds: Annotated[int, Field(ge=2)] | None = None
    fold: PositiveInt | None = None
    group: str | None = None
    seed: Seed = 0


class Search(Section):
    """Where the points of a sweep come from, and which of its jobs are ended early. It belongs to a sweep and not to
    the configs of its jobs.
    """

    name: Literal["grid", "random", "optuna"]
    ranges: dict[str, str]
    pruner: Literal["none", "median", "successive_halving", "hyperband"]
    warmup_epochs: PositiveInt
    startup_jobs: Count
    reduction_factor: Annotated[int, Field(ge=2)]


class RandomSearch(Search):
    trials: PositiveInt
    seed: Seed


class OptunaSearch(RandomSearch):
    sampler: Literal["tpe", "gp", "qmc", "nsgaii"]
    objectives: Annotated[list[str], Field(min_length=1)] | None


SEARCHES: dict[str, type[Search]] = {"grid": Search, "random": RandomSearch, "optuna": OptunaSearch}


class Config(Section):
    """A whole checked config."""

    seed: Seed
    monitor: str | None
    resume: str | None
    tags: list[str]
    notes: str | None
    paths: Paths
    sweep: Sweep
    cross_validation: CrossValidation = CrossValidation()
    model: ModelOption
    datamodule: DataOption
    optimizer: Option
    scheduler: SchedulerOption
    regularization: Regularization
    trainer: TrainerOption
    logger: dict[str, dict[str, Any] | None]
    callbacks: dict[str, dict[str, Any] | None]

    def plain(self) -> dict[str, Any]:
        """Return plain containers, as they stand in config.yaml and in a checkpoint."""
        return self.model_dump(mode="json", by_alias=True, serialize_as_any=True)


SCHEMAS: dict[str, dict[str, type[Option]]] = {
    "model": {
        "src.models.mlp.MLP": MLP,
        "src.models.mlp_scratch.MlpScratch": MlpScratch,
        "src.models.cnn.CNN": CNN,
        "src.models.resnet.ResNet": ResNet,
        "src.models.recurrent.RNN": Recurrent,
        "src.models.recurrent.LSTM": Recurrent,
        "src.models.recurrent.GRU": Recurrent,
        "src.models.transformer.Transformer": Transformer,
    },
    "datamodule": {
        "src.datamodules.digits.Digits": Digits,
        "src.datamodules.shapes.Shapes": Shapes,
        "src.datamodules.tables.BreastCancer": BreastCancer,
        "src.datamodules.tables.Wine": Wine,
        "src.datamodules.tables.Diabetes": Diabetes,
        "src.datamodules.function.Function": Function,
        "src.datamodules.mackey_glass.MackeyGlass": MackeyGlass,
        "src.datamodules.series.Series": Series,
        "src.datamodules.csv_table.CSV": CSV,
        "src.datamodules.adding.Adding": Adding,
        "src.datamodules.copying.Copy": Copy,
        "src.datamodules.dates.Dates": Dates,
        "src.datamodules.text.Text": Text,
        "src.datamodules.image_sets.FashionMNIST": ImageSet,
        "src.datamodules.image_sets.MNIST": ImageSet,
        "src.datamodules.image_sets.CIFAR10": ImageSet,
        "src.datamodules.tiny_shakespeare.TinyShakespeare": TinyShakespeare,
        "src.datamodules.ett.ETT": ETT,
        "src.datamodules.text_classification.TextClassification": TextClassification,
        "src.datamodules.parallel_text.ParallelText": ParallelText,
        "src.datamodules.multi30k.Multi30k": Multi30k,
        "src.datamodules.image_folder.ImageFolder": ImageFolder,
        "src.datamodules.audio_folder.AudioFolder": AudioFolder,
        "src.datamodules.fsdd.FSDD": FSDD,
    },
    "optimizer": {
        "torch.optim.SGD": SGD,
        "torch.optim.Adagrad": Adagrad,
        "torch.optim.RMSprop": RMSprop,
        "torch.optim.Adam": Adam,
        "torch.optim.AdamW": Adam,
        "torch.optim.RAdam": RAdam,
        "pytorch_optimizer.AdaBound": AdaBound,
        "torch.optim.NAdam": NAdam,
        "torch.optim.Adamax": Adamax,
        "torch.optim.Adadelta": Adadelta,
        "pytorch_optimizer.Lion": Lion,
        "src.optim.textbook.Momentum": TextbookMomentum,
        "src.optim.textbook.Adagrad": TextbookAdagrad,
        "src.optim.textbook.RMSprop": TextbookRMSprop,
    },
    "scheduler": {
        "": Constant,
        "torch.optim.lr_scheduler.StepLR": StepDecay,
        "torch.optim.lr_scheduler.ReduceLROnPlateau": Plateau,
        "torch.optim.lr_scheduler.ExponentialLR": Exponential,
        "src.optim.schedules.CosineLR": Cosine,
        "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts": CosineRestarts,
        "src.optim.schedules.InverseSqrtLR": InverseSqrt,
    },
}
"""For each group: the class that an option makes, and the schema of the option."""
