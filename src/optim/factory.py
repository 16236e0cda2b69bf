"""Optimizer and learning-rate schedules of a run, in the form that Lightning's `configure_optimizers` returns."""

import inspect
import logging
from typing import Any

import lightning as L
from torch import nn
from torch.optim import Adagrad, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from src.config.combinations import monitor_of
from src.config.locate import locate
from src.config.schema.base import Option
from src.config.schema.run import Config
from src.core.errors import UserError
from src.optim.parameter_groups import parameter_groups, weight_decays
from src.optim.schedules import WarmUp, delay_scheduler

log = logging.getLogger(__name__)

FUSED_DEVICES: dict[type[Optimizer], tuple[str, ...]] = {
    Adam: ("cpu", "cuda"),
    AdamW: ("cpu", "cuda"),
    Adagrad: ("cpu",),
}
"""Optimizers whose fused implementation in torch is faster than its default, with the devices where it is."""

DURATION_ARGUMENTS = ("T_max", "total_steps", "total_iters")
"""Arguments of schedules that default to the remaining duration of the run after the warm-up if they are null."""


def build_optimization(
    model: nn.Module, task: str, config: Config, trainer: L.Trainer
) -> tuple[list[Optimizer], list[dict[str, Any]]]:
    """Return the optimizer and the schedules of a run.

    Args:
        model: the model to train.
        task: name of its task, whose metric a schedule may monitor.
        config: a validated config.
        trainer: trainer of the run, for its number of steps.

    Returns:
        The optimizer in a list, and Lightning's settings of each schedule: the configured one and the warm-up, if any.

    Raises:
        UserError: if the optimizer or the schedule rejects its settings.
    """
    optimizer = build_optimizer(model, config)
    return [optimizer], _schedules(optimizer, config, trainer, task)


def build_optimizer(model: nn.Module, config: Config) -> Optimizer:
    """Return the optimizer, with one parameter group for each weight decay.

    Raises:
        UserError: if it rejects its settings.
    """
    cls = locate(config.optimizer.target or "", Optimizer, "optimizer._target_")
    settings = _keyword_arguments(config.optimizer)
    knobs = config.regularization
    params: Any = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if "weight_decay" in settings:
        decay = settings["weight_decay"] or 0.0
        assert knobs.weight_decay in (0.0, decay), "refused by src.config.combinations"
        if not (knobs.decay_norms_and_biases or decay or knobs.weight_decay_by_layer):
            log.warning(
                "regularization.decay_norms_and_biases=false excludes biases and normalisation from weight decay, and there "
                "is none: regularization=l2 or optimizer=adamw has one"
            )
        decays = weight_decays(model, decay, knobs.decay_norms_and_biases, knobs.weight_decay_by_layer)
        params = parameter_groups(model, decays)
    else:
        assert not (knobs.weight_decay or knobs.weight_decay_by_layer), "refused by src.config.combinations"
    if _supports_fused_step(cls, model, config):
        settings["fused"] = True
    return _instantiate(cls, f"optimizer={config.optimizer.name}", params, settings)


def _supports_fused_step(cls: type[Optimizer], model: nn.Module, config: Config) -> bool:
    """Return whether to use torch's fused optimizer step: the same formula, on a CPU in a third of the time.

    It is not used in mixed precision, since it unscales the gradients itself and Lightning then refuses to clip them, nor
    with sharded parameters, of which a rank may have none.
    """
    devices = FUSED_DEVICES.get(cls, ())
    return (
        not config.trainer.precision.endswith("-mixed")
        and config.trainer.strategy != "fsdp"
        and all(p.device.type in devices and p.is_floating_point() for p in model.parameters() if p.requires_grad)
    )


def _schedules(optimizer: Optimizer, config: Config, trainer: L.Trainer, task: str) -> list[dict[str, Any]]:
    """Return Lightning's settings of the configured schedule and of the warm-up, each if there is one."""
    option, warmup = config.scheduler, config.scheduler.warmup_steps
    if warmup and warmup >= trainer.estimated_stepping_batches:
        log.warning(
            "scheduler.warmup_steps=%d is at least as long as the whole run of %s steps, so optimizer.lr is hardly reached",
            warmup,
            trainer.estimated_stepping_batches,
        )
    schedules: list[dict[str, Any]] = []
    if option.target is not None:
        cls = locate(option.target, LRScheduler, "scheduler._target_")
        settings = _keyword_arguments(option)
        entry: dict[str, Any] = {"interval": option.interval}
        parameters = inspect.signature(cls).parameters
        if "warmup_steps" in parameters:  # the schedule has its own warm-up
            settings["warmup_steps"], warmup = warmup, 0
        for name in DURATION_ARGUMENTS:
            if name in parameters and settings.get(name) is None:
                settings[name] = _remaining_duration(trainer, option.interval, warmup)
        if issubclass(cls, ReduceLROnPlateau):
            entry["monitor"], settings["mode"] = monitor_of(config, task)
            entry["reduce_on_plateau"] = False  # Lightning would step it after the checkpoint; see Model._step_plateaus
        scheduler = _instantiate(cls, f"scheduler={option.name}", optimizer, settings)
        delay_scheduler(scheduler, warmup)
        schedules.append(entry | {"scheduler": scheduler})
    if warmup:
        schedules.append({"scheduler": WarmUp(optimizer, warmup), "interval": "step"})
    return schedules


def _keyword_arguments(option: Option) -> dict[str, Any]:
    """Return the keyword arguments of an option's class, with lists as tuples, which torch needs for betas."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in option.arguments().items()}


def _instantiate(cls: Any, choice: str, first: Any, settings: dict[str, Any]) -> Any:
    try:
        return cls(first, **settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"{choice}: {error}") from error


def _remaining_duration(trainer: L.Trainer, interval: str, warmup: int) -> int:
    """Return the number of optimizer steps or epochs after the warm-up, at least 1."""
    steps = int(trainer.estimated_stepping_batches)
    if interval == "step":
        return max(steps - warmup, 1)
    steps_per_epoch = int(-(-trainer.num_training_batches // trainer.accumulate_grad_batches))
    return max(-(-steps // steps_per_epoch) - warmup // steps_per_epoch, 1)
