"""Schemas of the config group `callbacks`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from src.config.schema.base import Decay, Entry
from src.config.schema.logger import CSVLogger


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
    min_interval: NonNegativeFloat = 1.0


class Progress(Entry):
    refresh: Annotated[float, Field(ge=0.1)] = 0.1
    min_interval: NonNegativeFloat = 3.0
    patience: NonNegativeFloat = 30.0


class Predictions(Entry):
    examples: Annotated[int, Field(ge=0, le=10_000)] = 16


class AttentionMaps(Entry):
    examples: Annotated[int, Field(gt=0, le=100)] = 2


class GradientThroughTime(Entry):
    examples: Annotated[int, Field(gt=0, le=10_000)] = 16


class GradientStatistics(Entry):
    every_n_steps: PositiveInt = 20


class LearningRateFinder(Entry):
    lowest: PositiveFloat = 1e-6
    highest: PositiveFloat = 10.0
    steps: Annotated[int, Field(ge=20, le=100_000)] = 200


class BatchSizeFinder(Entry):
    share: Annotated[float, Field(gt=0, le=1)] = 0.8
    patience: PositiveFloat = 10.0


ENTRIES: dict[str, type[Entry]] = {
    "src.callbacks.early_stopping.EarlyStopping": EarlyStopping,
    "src.callbacks.weight_averaging.ExponentialMovingAverage": ExponentialMovingAverage,
    "src.callbacks.weight_averaging.StochasticWeightAveraging": StochasticWeightAveraging,
    "src.callbacks.checkpoints.Checkpoints": Checkpoints,
    "src.callbacks.random_state.RandomState": Entry,
    "src.callbacks.progress.Progress": Progress,
    "src.callbacks.predictions.Predictions": Predictions,
    "src.callbacks.attention_maps.AttentionMaps": AttentionMaps,
    "src.callbacks.fitted_function.FittedFunctionPlot": Entry,
    "src.callbacks.gradient_statistics.GradientStatistics": GradientStatistics,
    "src.callbacks.gradient_through_time.GradientThroughTime": GradientThroughTime,
    "src.callbacks.recurrent_comparison.RecurrentComparison": Entry,
    "src.callbacks.learning_rate_finder.LearningRateFinder": LearningRateFinder,
    "src.callbacks.batch_size_finder.BatchSizeFinder": BatchSizeFinder,
    "lightning.pytorch.loggers.CSVLogger": CSVLogger,
}
