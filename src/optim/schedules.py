"""Learning-rate schedules that torch does not have. Step t is the t-th optimizer step, counted from 1."""

import math
from typing import Any

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler


class WarmUp(LRScheduler):
    """Increases the learning rate linearly, lr = peak · t/steps, and does not change it afterwards.

    Create it after the schedule that follows it, which `delay_scheduler` delays until the warm-up is over, so that any
    schedule, in steps or in epochs, starts at its beginning.

    Args:
        optimizer: optimizer whose learning rates it sets; the current ones are the peak.
        steps: length in optimizer steps, 1 or more.
    """

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        assert steps > 0
        self.steps = steps
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        step = self.last_epoch + 1
        if step > self.steps:
            return [group["lr"] for group in self.optimizer.param_groups]
        return [peak * step / self.steps for peak in self.peaks]


def delay_scheduler(scheduler: LRScheduler, steps: int) -> None:
    """Delay a schedule by a number of optimizer steps, which is stored in its state."""
    scheduler.delay_steps = steps  # type: ignore[attr-defined]


def step_scheduler(scheduler: LRScheduler, steps_done: int, *metric: Any) -> None:
    """Step a schedule unless it is still delayed.

    Args:
        scheduler: any schedule.
        steps_done: optimizer steps of the run so far.
        metric: the monitored metric of a plateau schedule.
    """
    if getattr(scheduler, "delay_steps", 0) < steps_done:
        scheduler.step(*metric)


class CosineLR(CosineAnnealingLR):
    """torch's cosine annealing, η_min + ½(η - η_min)(1 + cos(πt/T)), computed from t alone and not from the previous rate,
    so that T may change when a run is resumed with more epochs.
    """

    def get_lr(self) -> list[Any]:
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (base_lr - self.eta_min) * share for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "T_max"}


class InverseSqrtLR(LRScheduler):
    """Linear warm-up, then decay with the inverse square root of the step (textbook, Learning Rate Schedule;
    Vaswani et al. 2017, 5.3).

    Args:
        optimizer: optimizer whose learning rates it sets.
        warmup_steps: w, in optimizer steps.
        d_model: None reaches the optimizer's lr at the end of the warm-up, lr · min(√w/√t, t/w); a width gives the
            paper's formula, lr · d_model^-0.5 · min(t^-0.5, t·w^-1.5), where the paper's lr is 1.

    Raises:
        ValueError: if there is no warm-up.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, d_model: int | None = None) -> None:
        if warmup_steps < 1:
            raise ValueError(f"warmup_steps must be 1 or more, not {warmup_steps}")
        self.warmup_steps = warmup_steps
        self.scale = warmup_steps**0.5 if d_model is None else d_model**-0.5
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        step = self.last_epoch + 1
        factor = self.scale * min(step**-0.5, step * self.warmup_steps**-1.5)
        return [lr * factor for lr in self.base_lrs]


def first_averaged_epoch(start: float, max_epochs: int) -> int:
    """Return the index of the last epoch that begins at or before a share of all epochs. It is rounded, since
    0.29 · 100 < 29 in floating point.
    """
    return int(round(start * max_epochs, 9))


def end_schedule(trainer: L.Trainer, lr: float) -> None:
    """Replace all schedules by a constant learning rate."""
    trainer.strategy.lr_scheduler_configs.clear()
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
