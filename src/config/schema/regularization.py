"""Schema of the config group `regularization`."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, ValidationInfo, model_validator

from src.config.schema.base import Count, Decay, NonNegative, Probability, Section, Share, UserPath


class Augmentation(Section):
    """Strength of each random change to training images; 0 disables it. conf/train.yaml describes the units."""

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
    def _check_one_policy(self) -> "Augmentation":
        policies = [name for name in ("trivial_augment", "rand_augment", "auto_augment") if getattr(self, name)]
        if len(policies) > 1:
            raise ValueError(f"{' and '.join(policies)} are alternative policies: use one, and set the others to 0")
        return self

    def enabled(self) -> dict[str, float]:
        """Return the enabled changes and their strengths."""
        return {name: strength for name, strength in self if strength}


def _check_one_average(start: float | None, info: ValidationInfo) -> float | None:
    if start is not None and info.data.get("ema_decay"):
        raise ValueError("one average at a time: set regularization.ema_decay=0 or regularization.swa_start=null")
    return start


def _check_swa_enabled(lr: float | None, info: ValidationInfo) -> float | None:
    if lr is not None and info.data.get("swa_start") is None:
        raise ValueError(
            "this is the learning rate of weight averaging: set regularization.swa_start too, such as 0.75"
        )
    return lr


class AudioAugmentation(Section):
    """Strength of each random change to training waveforms; 0 or null disables it. conf/train.yaml describes the units."""

    probability: Share
    time_stretch: Annotated[float, Field(ge=0, le=0.9)]
    pitch_shift: Annotated[float, Field(ge=0, le=24)]
    noise_snr: Annotated[list[float], Field(min_length=2, max_length=2)] | None

    @model_validator(mode="after")
    def _check_noise_range(self) -> "AudioAugmentation":
        if self.noise_snr is not None and self.noise_snr[0] > self.noise_snr[1]:
            raise ValueError(f"noise_snr={self.noise_snr}: the first number must not be above the second")
        return self

    def enabled(self) -> list[str]:
        """Return the keys of the enabled changes."""
        changes = {"time_stretch": self.time_stretch, "pitch_shift": self.pitch_shift, "noise_snr": self.noise_snr}
        return [f"regularization.audio.{name}" for name, strength in changes.items() if strength and self.probability]


class Synonyms(Section):
    """Replacement of words of training texts by synonyms."""

    probability: Share
    lexicon: str

    def enabled(self) -> list[str]:
        """Return the keys of the enabled changes."""
        return ["regularization.synonyms.probability"] if self.probability else []


class BackTranslation(Section):
    """Paraphrases of training texts: one run translates a text, and a second one translates it back."""

    probability: Share
    forward: UserPath | None
    backward: UserPath | None

    @model_validator(mode="after")
    def _check_both_directions(self) -> "BackTranslation":
        if (self.forward is None) != (self.backward is None):
            raise ValueError("set both forward and backward to a run, or neither")
        return self

    def enabled(self) -> list[str]:
        """Return the keys of the enabled changes."""
        return ["regularization.back_translation.forward"] if self.forward and self.probability else []


def _check_one_clipping(value: float | None, info: ValidationInfo) -> float | None:
    if value is not None and info.data.get("gradient_clip_norm") is not None:
        raise ValueError("gradients are clipped by norm or by value: set regularization.gradient_clip_norm=null")
    return value


class Regularization(Section):
    """All regularization knobs, in one flat section. The options in conf/regularization/ are presets of them."""

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
    gradient_clip_value: Annotated[PositiveFloat | None, AfterValidator(_check_one_clipping)]
    early_stopping_patience: PositiveInt | None
    ema_decay: Decay
    swa_start: Annotated[Decay | None, AfterValidator(_check_one_average)]
    swa_lr: Annotated[PositiveFloat | None, AfterValidator(_check_swa_enabled)]
    mixup_alpha: NonNegative
    cutmix_alpha: NonNegative
    augmentation: Augmentation
    audio: AudioAugmentation
    synonyms: Synonyms
    back_translation: BackTranslation

    def enabled_example_augmentation(self) -> dict[str, list[str]]:
        """Return the keys of the enabled changes to raw examples, by the kind of example."""
        return {"audio": self.audio.enabled(), "text": self.synonyms.enabled() + self.back_translation.enabled()}
