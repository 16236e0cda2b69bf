"""What may stand in an entry of `callbacks` and `logger`: the keys of every shipped one, by its class.

Keys have the defaults of the classes, as an entry may leave any out.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from src.config.schema import Count, Decay, Section


class Entry(Section):
    """One callback or logger: its class, and the arguments of the class."""

    target: str = Field(alias="_target_")


class Unnamed(Entry, extra="allow"):
    """An entry whose class is missing, so that nothing is known of its keys."""


class EarlyStopping(Entry):
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    patience: PositiveInt | None = 10
    min_delta: NonNegativeFloat = 0.0


class ExponentialMovingAverage(Entry):
    decay: Decay


class StochasticWeightAveraging(Entry):
    start: Decay | None
    lr: PositiveFloat | None = None


class Checkpoints(Entry):
    dirpath: str | None = None
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    every_n_steps: PositiveInt | None = None
    every_minutes: PositiveFloat | None = None
    pause: NonNegativeFloat = 1.0


class Progress(Entry):
    refresh: Annotated[float, Field(ge=0.1)] = 0.1
    pause: NonNegativeFloat = 3.0
    patience: NonNegativeFloat = 30.0


class Answers(Entry):
    examples: Count = 16


class AttentionMaps(Entry):
    examples: PositiveInt = 2


class GradientThroughTime(Entry):
    examples: PositiveInt = 16


class Gradients(Entry):
    every_n_steps: PositiveInt = 20


class LearningRateFinder(Entry):
    lowest: PositiveFloat = 1e-6
    highest: PositiveFloat = 10.0
    steps: Annotated[int, Field(ge=20)] = 200


class BatchSizeFinder(Entry):
    share: Annotated[float, Field(gt=0, le=1)] = 0.8
    patience: PositiveFloat = 10.0


class CSVLogger(Entry):
    save_dir: str | None = None
    name: str | None = "lightning_logs"
    version: int | str | None = None
    prefix: str = ""
    flush_logs_every_n_steps: PositiveInt = 100


class WeightsAndBiases(Section):
    """The entry ``logger.wandb``, which has no class."""

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    name: str | None = None
    tags: list[str] | None = None
    notes: str | None = None
    log_model: bool | Literal["all"] = False
    init_timeout: PositiveFloat = 10.0
    finish_timeout: PositiveFloat = 30.0


ENTRIES: dict[str, type[Entry]] = {
    "src.regularization.early_stopping.EarlyStopping": EarlyStopping,
    "src.regularization.averaging.ExponentialMovingAverage": ExponentialMovingAverage,
    "src.regularization.averaging.StochasticWeightAveraging": StochasticWeightAveraging,
    "src.tracking.checkpoints.Checkpoints": Checkpoints,
    "src.tracking.checkpoints.RandomState": Entry,
    "src.tracking.progress.Progress": Progress,
    "src.tracking.answers.Answers": Answers,
    "src.tracking.attention_maps.AttentionMaps": AttentionMaps,
    "src.tracking.fit_picture.FitPicture": Entry,
    "src.tracking.gradients.Gradients": Gradients,
    "src.tracking.gradient_through_time.GradientThroughTime": GradientThroughTime,
    "src.tracking.recurrent_comparison.RecurrentComparison": Entry,
    "src.tracking.learning_rate_finder.LearningRateFinder": LearningRateFinder,
    "src.tracking.batch_size_finder.BatchSizeFinder": BatchSizeFinder,
    "lightning.pytorch.loggers.CSVLogger": CSVLogger,
}
