"""Schemas of the config group `optimizer`."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, ValidationInfo

from src.config.schema.base import Decay, NonNegative, Option


class OptimizerOption(Option):
    lr: PositiveFloat
    weight_decay: NonNegative


def _check_nesterov(nesterov: bool, info: ValidationInfo) -> bool:
    if nesterov and not (info.data.get("momentum", 1) and info.data.get("dampening", 0) == 0):
        raise ValueError("Nesterov momentum needs optimizer.momentum above 0 and optimizer.dampening=0")
    return nesterov


class SGD(OptimizerOption):
    momentum: Decay
    dampening: Decay
    nesterov: Annotated[bool, AfterValidator(_check_nesterov)]


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
