"""Schemas of the config group `scheduler`."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from src.config.schema.base import Count, Fraction, NonNegative, Option


class SchedulerOption(Option):
    """A learning rate schedule. `interval` is the unit of its lengths, except for the warm-up, which is in steps."""

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
