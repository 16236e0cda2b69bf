"""The learning rate of every step of a run before it trains: a rehearsal under Lightning's trainer, with the run's own
optimizer and schedules, in which nothing is computed.
"""

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
    """What a schedule does in a run.

    Args:
        rates: the learning rate of each optimizer step.
        steps_an_epoch: optimizer steps in an epoch.
        watches: the metric that the schedule depends on, if any.
    """

    rates: list[float] = field(default_factory=list)
    steps_an_epoch: int = 0
    watches: str | None = None


class _Rehearsal(L.LightningModule):
    """Stands for a model: without a loss there is no gradient, and steps change no weight.

    Args:
        model: whose optimizer and schedules are rehearsed.
        monitor: the metric that a plateau schedule is shown.
        factor: what it is multiplied with from one measurement to the next.
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
            self.curve.watches = self.monitor

    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self.curve.rates.append(float(optimizer.param_groups[0]["lr"]))
        self.curve.steps_an_epoch += epoch == 0
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
        config: a checked config.
        improving: what a schedule that watches a metric sees: it improves at every measurement, or never after the first.
    """
    datamodule = build_data(config)
    datamodule.prepare_data()
    datamodule.setup()
    model = build_model(config, datamodule.spec)
    here = SimpleNamespace(root_device=torch.device("cpu"))
    processes = _processes(config)
    datamodule.trainer = SimpleNamespace(global_rank=0, world_size=processes, strategy=here)  # type: ignore[assignment]
    alone = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true", "limit_val_batches": 1}
    quick = alone | {"profiler": None, "detect_anomaly": False, "max_time": None, "sync_batchnorm": False}
    settings = config.trainer.model_copy(update=quick)
    monitor, mode = monitor_of(config, datamodule.spec.task)
    factor = 1.0 if not improving else {"min": 0.75, "max": 1 / 0.75}[mode]
    rehearsal = _Rehearsal(model, monitor, factor)
    with train_log.log_to(None):
        warnings.filterwarnings("ignore", ".*returned `None`")
        trainer = build_trainer(config.model_copy(update={"trainer": settings}))
        trainer.fit(rehearsal, [0] * len(datamodule.train_dataloader()), [0])
    return rehearsal.curve


def _processes(config: Config) -> int:
    devices = config.trainer.devices
    if devices == "auto":
        return build_trainer(config).world_size
    return len(devices) if isinstance(devices, list) else devices


def schedule_picture(config: Config) -> "Figure":
    """Draw the learning rate of every step of a run, on a linear and on a logarithmic scale.

    A schedule that watches a metric is drawn at its fastest and at its slowest; the run's will lie between them.

    Args:
        config: a checked config.
    """
    from matplotlib.figure import Figure

    first = schedule_curve(config)
    curves, epoch = {"": first}, first.steps_an_epoch
    if first.watches:
        slowest = schedule_curve(config, improving=True)
        curves = {
            f"if {first.watches} never improves after the first": first,
            f"if {first.watches} always improves": slowest,
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
    if first.watches:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _title(config: Config, curve: Curve) -> str:
    steps, epochs = len(curve.rates), -(-len(curve.rates) // curve.steps_an_epoch)
    warmup = f" after {config.scheduler.warmup_steps} steps of warm-up" if config.scheduler.warmup_steps else ""
    sooner = "; early stopping may end it sooner" if config.regularization.early_stopping_patience else ""
    length = f"{steps} steps in {epochs} epochs of {curve.steps_an_epoch}"
    return f"scheduler={config.scheduler.name}{warmup}: {length}{sooner}"
