"""Preview of the learning rate at every step of a run: a dry run of its optimizer and schedules with Lightning's trainer,
without forward and backward passes.
"""

import math
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.config.combinations import monitor_of
from src.config.schema.run import Config
from src.core.escape import mathtext
from src.models.base import Model
from src.optim.schedules import end_schedule, first_averaged_epoch
from src.run_store import train_log
from src.training.build import build_data, build_model, build_trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Curve:
    """Learning-rate curve of a run.

    Args:
        rates: learning rate of each optimizer step.
        steps_per_epoch: optimizer steps per epoch.
        monitor: metric that the schedule depends on, if any.
    """

    rates: list[float] = field(default_factory=list)
    steps_per_epoch: int = 0
    monitor: str | None = None


class ScheduleDryRun(L.LightningModule):
    """Replace a model in a dry run: without a loss there are no gradients, and steps do not change weights.

    Args:
        model: model whose optimizer and schedules are used.
        monitor: metric that a plateau schedule receives.
        factor: factor by which the metric changes from one measurement to the next.
    """

    def __init__(self, model: Model, monitor: str, factor: float) -> None:
        super().__init__()
        self.model = model
        self.monitor = monitor
        self.factor = factor
        self.value = 1.0
        self.curve = Curve()

    def configure_optimizers(self) -> Any:
        return self.model.configure_optimizers()

    def on_train_epoch_start(self) -> None:
        knobs = self.model.training_config.regularization
        if knobs.swa_start is None or knobs.swa_lr is None:
            return
        assert self.trainer.max_epochs is not None
        if self.current_epoch >= first_averaged_epoch(knobs.swa_start, self.trainer.max_epochs):
            end_schedule(self.trainer, knobs.swa_lr)

    def on_train_start(self) -> None:
        if any(isinstance(entry.scheduler, ReduceLROnPlateau) for entry in self.trainer.lr_scheduler_configs):
            self.curve.monitor = self.monitor

    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self.curve.rates.append(float(optimizer.param_groups[0]["lr"]))
        self.curve.steps_per_epoch += epoch == 0
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        self.model.lr_scheduler_step(scheduler, metric)

    def on_train_epoch_end(self) -> None:
        self._measure("train")

    def on_validation_epoch_end(self) -> None:
        self._measure("val")

    def _measure(self, split: str) -> None:
        if self.monitor.startswith(f"{split}/"):
            self.model._step_plateaus({self.monitor: torch.tensor(self.value, dtype=torch.float64)})
            self.value *= self.factor


def schedule_curve(config: Config, improving: bool = False) -> Curve:
    """Return the learning rates of a run.

    Args:
        config: a validated config.
        improving: for schedules that depend on a metric: whether it improves at every measurement, or never after the
            first.
    """
    datamodule = build_data(config)
    datamodule.prepare_data()
    datamodule.setup()
    model = build_model(config, datamodule.spec)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    world_size = _world_size(config)
    datamodule.trainer = SimpleNamespace(global_rank=0, world_size=world_size, strategy=strategy)  # type: ignore[assignment]
    settings = config.trainer.model_copy(
        update={
            "accelerator": "cpu",
            "devices": 1,
            "strategy": "auto",
            "precision": "32-true",
            "limit_val_batches": 1,
            "profiler": None,
            "detect_anomaly": False,
            "max_time": None,
            "sync_batchnorm": False,
        }
    )
    monitor, mode = monitor_of(config, datamodule.spec.task)
    factor = 1.0 if not improving else {"min": 0.75, "max": 1 / 0.75}[mode]
    dry_run = ScheduleDryRun(model, monitor, factor)
    with train_log.log_to(None):
        warnings.filterwarnings("ignore", ".*returned `None`")
        trainer = build_trainer(config.model_copy(update={"trainer": settings}))
        trainer.fit(dry_run, [0] * len(datamodule.train_dataloader()), [0])
    return dry_run.curve


def _world_size(config: Config) -> int:
    devices = config.trainer.devices
    if devices == "auto":
        return build_trainer(config).world_size
    return len(devices) if isinstance(devices, list) else devices


def schedule_figure(config: Config) -> "Figure":
    """Plot the learning rate at every step of a run, on a linear and on a logarithmic scale.

    A schedule that depends on a metric is plotted for a metric that never improves and for one that always improves; the
    actual curve is between them.

    Args:
        config: a validated config.
    """
    from matplotlib.figure import Figure

    first = schedule_curve(config)
    curves, epoch = {"": first}, first.steps_per_epoch
    if first.monitor:
        slowest = schedule_curve(config, improving=True)
        curves = {
            f"if {first.monitor} never improves after the first": first,
            f"if {first.monitor} always improves": slowest,
        }
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    figure.suptitle(mathtext(_title(config, first), 500))
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
        for label, curve in curves.items():
            axes.plot(range(1, len(curve.rates) + 1), curve.rates, label=label, drawstyle="steps-mid")
        axes.set_yscale(scale)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("learning rate")
        axes.grid(alpha=0.3)
        top = axes.secondary_xaxis("top", functions=(lambda step: step / epoch, lambda epochs: epochs * epoch))
        top.set_xlabel("epoch")
    if first.monitor:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _title(config: Config, curve: Curve) -> str:
    steps = len(curve.rates)
    epochs = math.ceil(steps / curve.steps_per_epoch)
    warmup = f" after {config.scheduler.warmup_steps} steps of warm-up" if config.scheduler.warmup_steps else ""
    earlier = "; early stopping may end it earlier" if config.regularization.early_stopping_patience else ""
    length = f"{steps} steps in {epochs} epochs of {curve.steps_per_epoch}"
    return f"scheduler={config.scheduler.name}{warmup}: {length}{earlier}"
