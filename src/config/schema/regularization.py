"""Schema of the config group `regularization`."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, ValidationInfo, model_validator

from src.config.schema.base import Count, Decay, NonNegative, Probability, Section, Share, UserPath

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
