"""A member of a fused group: one job with its own folder, weights, optimizer, schedules and callbacks.

Lightning's trainer belongs to the group. What callbacks and the model ask of theirs, `MemberTrainer` answers: the group's
counters, and the member's own metrics, optimizer, loggers and checkpoints.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn, TrainerState
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.predictions import Answers
from src.callbacks.random_state import RandomState
from src.compat.group_loop import MemberCheckpointConnector, scheduler_progress
from src.compat.torch_private import mark_stepped
from src.config.combinations import monitor_of
from src.config.schema.run import Config
from src.core.batches import Batch
from src.core.checkpoint_schema import check_callback, check_like, check_optimizer, named, steps_in
from src.core.random_state import random_state
from src.datamodules.base import DataModule
from src.loggers.factory import build_loggers, close_loggers
from src.optim.factory import build_optimization
from src.run_store.best_epoch import best_epoch, last_epoch
from src.run_store.run_folder import RunFolder
from src.training.callbacks import build_callbacks
from src.training.experiment import seeded_model


class MemberTrainer:
    """Lightning's trainer as a member sees it; what is not its own is the group's.

    Args:
        group: the trainer of the group.
        member: whose it is.
    """

    dumps_copies = True
    """What goes into a checkpoint is copied: a view would drag the tensors of all members along."""

    def __init__(self, group: L.Trainer, member: "Member") -> None:
        self._group = group
        self._member = member
        self.state = TrainerState(fn=TrainerFn.FITTING)
        self.callback_metrics: dict[str, Tensor] = {}
        self.should_stop = False
        self.testing = False
        self.callbacks: list[Callback] = []
        self.loggers: list[Logger] = []
        self.optimizers: list[Optimizer] = []
        self.lr_scheduler_configs: list[LRSchedulerConfig] = []
        self.scheduler_progress = scheduler_progress()
        self._checkpoint_connector = MemberCheckpointConnector(self)  # type: ignore[arg-type]

    loops: Callable[[], dict[str, Any]]
    """Returns the progress of the group's loops; set by the group."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    @property
    def lightning_module(self) -> L.LightningModule:
        return self._member.model

    @property
    def datamodule(self) -> DataModule:
        return self._member.datamodule

    def save_checkpoint(self, filepath: str | Path, weights_only: bool | None = None) -> None:
        """Write the state of the member."""
        self._group.strategy.save_checkpoint(self._checkpoint_connector.dump_checkpoint(weights_only), filepath)


class Member:
    """One job of a group.

    Args:
        number: of the job.
        config: of the job.
        folder: its run folder, created or resumed.
        datamodule: of the group, with the data loaded.
        trainer: of the group.
        callbacks: beside those of the config.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        folder: RunFolder,
        datamodule: DataModule,
        trainer: L.Trainer,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.number = number
        self.config = config
        self.folder = folder
        self.datamodule = datamodule
        self.monitor, self.mode = monitor_of(config, datamodule.spec.task)
        self.model = seeded_model(config, datamodule)
        self._random = random_state(trainer.strategy.root_device)
        self.trainer = MemberTrainer(trainer, self)
        own = [*build_callbacks(config, folder, datamodule.task, verbose=False), *callbacks]
        self.trainer.callbacks = sorted(own, key=lambda callback: isinstance(callback, Checkpoint))
        self.model.trainer = self.trainer  # type: ignore[assignment]
        self.gone = False

    @cached_property
    def optimizer(self) -> Optimizer:
        return self.trainer.optimizers[0]

    # ---- the way of a run ------------------------------------------------------------------------------------------

    def set_up(self, checkpoint: dict[str, Any] | None) -> None:
        """Make the optimizer and the schedules, and take the state of a checkpoint, in the order of Lightning."""
        trainer, model, plain = self.trainer, self.model, self.config.plain()
        self.trainer.loggers = build_loggers(plain["logger"], self.folder, plain, beside=True)
        for callback in trainer.callbacks:
            callback.setup(trainer, model, "fit")  # type: ignore[arg-type]
        if checkpoint is not None:
            with named(self.folder.last_checkpoint):
                self._restore(checkpoint)
        trainer.optimizers, schedules = build_optimization(model, model.spec.task, self.config, trainer)  # type: ignore[arg-type]
        mark_stepped(self.optimizer)
        trainer.lr_scheduler_configs = [LRSchedulerConfig(**schedule) for schedule in schedules]
        if checkpoint is not None:
            with named(self.folder.last_checkpoint):
                self._restore_optimization(checkpoint)

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Take the weights and the callbacks' states of a checkpoint."""
        trainer, model = self.trainer, self.model
        model.load_state_dict(checkpoint["state_dict"])
        for callback in trainer.callbacks:
            callback.on_load_checkpoint(trainer, model, checkpoint)  # type: ignore[arg-type]
        for callback in trainer.callbacks:
            if (state := checkpoint["callbacks"].get(callback.state_key)) is not None:
                check_callback(callback, state)
                callback.load_state_dict(state)

    def _restore_optimization(self, checkpoint: dict[str, Any]) -> None:
        """Take the states of the optimizer and the schedules of a checkpoint."""
        trainer = self.trainer
        check_optimizer(self.optimizer, checkpoint["optimizer_states"][0], steps_in(checkpoint))
        self.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        for entry, state in zip(trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=True):
            check_like(entry.scheduler.state_dict(), state, "the state of a schedule")
            entry.scheduler.load_state_dict(state)
        trainer.scheduler_progress.load_state_dict(checkpoint["loops"]["fit_loop"]["epoch_loop.scheduler_progress"])

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook of those callbacks that have one of their own."""
        for callback in self.trainer.callbacks:
            if getattr(type(callback), hook) is not getattr(Callback, hook):
                getattr(callback, hook)(self.trainer, self.model, *arguments)

    def end_epoch(self) -> None:
        """Do what Lightning does at the end of an epoch: callbacks, the model's report, and checkpoints last."""
        for last in (False, True):
            if last:
                self.model.on_train_epoch_end()
            for callback in self.trainer.callbacks:
                if isinstance(callback, Checkpoint) is last:
                    callback.on_train_epoch_end(self.trainer, self.model)  # type: ignore[arg-type]

    def step_schedules(self, interval: str, index: int) -> bool:
        """Step the schedules after an optimizer step or an epoch, the `index`-th, from 0; return whether there were any."""
        stepped = False
        for entry in self.trainer.lr_scheduler_configs:
            if entry.interval == interval and (index + 1) % entry.frequency == 0:
                self.trainer.scheduler_progress.increment_ready()
                self.model.lr_scheduler_step(entry.scheduler, None)
                self.trainer.scheduler_progress.increment_completed()
                stepped = True
        return stepped

    def join(
        self, loops: Callable[[], dict[str, Any]], too_soon: Callable[[], bool], drawn: Callable[[], bool]
    ) -> None:
        """Let the group answer for what the member has not of its own.

        Args:
            loops: returns the progress of the loops.
            too_soon: tells whether the end of an epoch need not be written.
            drawn: tells whether training has drawn random numbers; where it has not, the state of the generators is that
                of a run of its own.
        """
        self.trainer.loops = loops
        for callback in self.trainer.callbacks:
            if isinstance(callback, Checkpoints):
                callback.too_soon = too_soon
            elif isinstance(callback, RandomState):
                callback.now = lambda device: random_state(device) if drawn() else self._random

    def is_due(self) -> bool:
        """Tell whether it is time for a checkpoint within an epoch."""
        return any(callback.is_due(self.trainer) for callback in self._savers)  # type: ignore[arg-type]

    def save_between_steps(self) -> None:
        """Save the state to go on from, within an epoch."""
        for callback in self._savers:
            callback.save_between_steps(self.trainer)  # type: ignore[arg-type]

    @property
    def pause(self) -> float:
        """Seconds between two ends of epochs that are written."""
        return max((callback.pause for callback in self._savers), default=0.0)

    @property
    def _savers(self) -> list[Checkpoints]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, Checkpoints)]

    # ---- the end ---------------------------------------------------------------------------------------------------

    def end_training(self) -> None:
        """Do what Lightning does at the end of training, and take the best weights."""
        best = next((weights for saver in self._savers if (weights := saver.best_weights(self.trainer))), None)  # type: ignore[arg-type]
        self.call("on_train_end")
        if best is not None:
            self.model.load_state_dict(best)
        self.trainer.state.fn, self.trainer.testing = TrainerFn.TESTING, True
        self.model.eval()

    def test(self, batches: Sequence[Batch], outputs: Sequence[Tensor] | None, meter: Any) -> None:
        """Measure the weights on the test split, and record the end of the run.

        Args:
            batches: of the split, on the device.
            outputs: of the model for each batch, where they are known.
            meter: what was measured with them.
        """
        trainer, model, folder = self.trainer, self.model, self.folder
        with torch.no_grad():
            self.call("on_test_start")
            for index, batch in enumerate(batches):
                self.call("on_test_batch_start", batch, index)
                if outputs is None:
                    with trainer.precision_plugin.forward_context():
                        model.test_step(batch, index)
                else:
                    for callback in trainer.callbacks:
                        if isinstance(callback, Answers):
                            callback.take(outputs[index])
                self.call("on_test_batch_end", None, batch, index)
            if outputs is not None:
                model.meters["test"] = meter
            self.call("on_test_epoch_end")
            with trainer.precision_plugin.forward_context():
                dtype = torch.get_default_dtype()  # Lightning rounds what is logged in a test
            tested = {name: float(value.to(dtype)) for name, value in model.measured("test").items()}
            self.call("on_test_end")
        for logger in trainer.loggers:
            logger.log_metrics(tested | {"epoch": trainer.current_epoch}, step=trainer.global_step)
        rows = folder.metrics()
        kept = folder.has_checkpoint("best")
        epoch, metrics = best_epoch(rows, self.monitor, self.mode) if kept else (None, last_epoch(rows))
        folder.note(best_epoch=epoch, value=(metrics | tested).get(self.monitor), best=metrics)
        folder.finish(tested)

    def fail(self, error: Exception) -> None:
        """Record that the run failed."""
        self.call("on_exception", error)
        self.folder.fail(error)
        self.close(1)

    def interrupt(self) -> None:
        """Record that the run was stopped and can be resumed."""
        self.call("on_exception", KeyboardInterrupt())
        self.folder.interrupt()
        self.close(1)

    def close(self, exit_code: int) -> None:
        """Close what is open."""
        close_loggers(self.trainer.loggers, exit_code)
        self.gone = True
