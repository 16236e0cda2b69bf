"""From a config to the optimizer and the schedules of a run, as Lightning's `configure_optimizers` returns them."""

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
from src.optim.schedules import WarmUp, hold

log = logging.getLogger(__name__)

FUSED: dict[type[Optimizer], tuple[str, ...]] = {
    Adam: ("cpu", "cuda"),
    AdamW: ("cpu", "cuda"),
    Adagrad: ("cpu",),
}
"""Optimizers that torch can step in one kernel, where that is faster than its default, and on which devices."""

REST_OF_RUN = ("T_max", "total_steps", "total_iters")
"""Arguments of schedules that, where they are null, become what the run has left after the warm-up."""


def build_optimization(
    model: nn.Module, task: str, config: Config, trainer: L.Trainer
) -> tuple[list[Optimizer], list[dict[str, Any]]]:
    """Make the optimizer and the schedules of a run.

    Args:
        model: whose parameters are trained.
        task: the name of its task, whose metric a schedule may monitor.
        config: a checked config.
        trainer: of the run, which knows how many steps it has.

    Returns:
        The optimizer in a list, and Lightning's settings of each schedule: none, the chosen one, and a warm-up.

    Raises:
        UserError: if the optimizer or the schedule refuses its settings.
    """
    optimizer = build_optimizer(model, config)
    return [optimizer], _schedules(optimizer, config, trainer, task)


def build_optimizer(model: nn.Module, config: Config) -> Optimizer:
    """Make the optimizer, with a group of parameters for each weight decay.

    Raises:
        UserError: if it refuses its settings.
    """
    cls = locate(config.optimizer.target or "", Optimizer, "optimizer._target_")
    settings = _settings(config.optimizer)
    knobs = config.regularization
    params: Any = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if "weight_decay" in settings:
        decay = settings["weight_decay"] or 0.0
        assert knobs.weight_decay in (0.0, decay), "refused by src.config.combinations"
        if not (knobs.decay_norms_and_biases or decay or knobs.weight_decay_by_layer):
            log.warning(
                "regularization.decay_norms_and_biases=false spares biases and normalisation from weight decay, and there "
                "is none: regularization=l2 or optimizer=adamw has one"
            )
        decays = weight_decays(model, decay, knobs.decay_norms_and_biases, knobs.weight_decay_by_layer)
        params = parameter_groups(model, decays)
    else:
        assert not (knobs.weight_decay or knobs.weight_decay_by_layer), "refused by src.config.combinations"
    if _steps_in_one_kernel(cls, model, config):
        settings["fused"] = True
    return _make(cls, f"optimizer={config.optimizer.name}", params, settings)


def _steps_in_one_kernel(cls: type[Optimizer], model: nn.Module, config: Config) -> bool:
    """Tell whether torch can step these parameters in one kernel: the same formula, on a CPU in a third of the time.

    Not in mixed precision, since that kernel unscales the gradients itself and Lightning then refuses to clip them; nor
    with sharded parameters, of which a rank may have none.
    """
    devices = FUSED.get(cls, ())
    return (
        not config.trainer.precision.endswith("-mixed")
        and config.trainer.strategy != "fsdp"
        and all(p.device.type in devices and p.is_floating_point() for p in model.parameters() if p.requires_grad)
    )


def _schedules(optimizer: Optimizer, config: Config, trainer: L.Trainer, task: str) -> list[dict[str, Any]]:
    option, warmup = config.scheduler, config.scheduler.warmup_steps
    if warmup and warmup >= trainer.estimated_stepping_batches:
        log.warning(
            "scheduler.warmup_steps=%d is as long as the whole run of %s steps: optimizer.lr is hardly reached",
            warmup,
            trainer.estimated_stepping_batches,
        )
    schedules: list[dict[str, Any]] = []
    if option.target is not None:
        cls = locate(option.target, LRScheduler, "scheduler._target_")
        settings = _settings(option)
        entry: dict[str, Any] = {"interval": option.interval}
        takes = inspect.signature(cls).parameters
        if "warmup_steps" in takes:  # it has a warm-up of its own
            settings["warmup_steps"], warmup = warmup, 0
        for name in REST_OF_RUN:
            if name in takes and settings.get(name) is None:
                settings[name] = _rest_of_run(trainer, option.interval, warmup)
        if issubclass(cls, ReduceLROnPlateau):
            entry["monitor"], settings["mode"] = monitor_of(config, task)
            entry["reduce_on_plateau"] = False  # Lightning would step it after the checkpoint; see Model._report
        scheduler = _make(cls, f"scheduler={option.name}", optimizer, settings)
        hold(scheduler, warmup)
        schedules.append(entry | {"scheduler": scheduler})
    if warmup:
        schedules.append({"scheduler": WarmUp(optimizer, warmup), "interval": "step"})
    return schedules


def _settings(option: Option) -> dict[str, Any]:
    """Return the keyword arguments of an option's class, with tuples for lists: β is a pair to torch."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in option.arguments().items()}


def _make(cls: Any, choice: str, first: Any, settings: dict[str, Any]) -> Any:
    try:
        return cls(first, **settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"{choice}: {error}") from error


def _rest_of_run(trainer: L.Trainer, interval: str, warmup: int) -> int:
    """Return how many optimizer steps or epochs follow the warm-up, at least 1."""
    steps = int(trainer.estimated_stepping_batches)
    if interval == "step":
        return max(steps - warmup, 1)
    steps_an_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    return max(-(-steps // int(steps_an_epoch)) - warmup // int(steps_an_epoch), 1)
