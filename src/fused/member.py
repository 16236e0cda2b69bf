"""A member of a fused group: one job with its own folder, weights, optimizer, schedules and callbacks.

Lightning's trainer belongs to the group. Callbacks and the model of a member see a `MemberTrainer` instead: it has the
member's own metrics, optimizer, loggers and checkpoints, and the counters of the group.
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
from src.callbacks.predictions import Predictions
from src.compat.group_loop import MemberCheckpointConnector, scheduler_progress
from src.compat.torch_private import mark_stepped
from src.config.combinations import monitor_of
from src.config.schema.run import Config
from src.core.batches import Batch
from src.core.checkpoint_schema import check_callback, check_like, check_optimizer, name_errors, steps_in
from src.core.random_state import random_state
from src.datamodules.base import DataModule
from src.loggers.factory import build_loggers, close_loggers
from src.optim.factory import build_optimization
from src.run_store.best_epoch import best_epoch, last_epoch
from src.run_store.run_folder import RunFolder
from src.training.callbacks import build_callbacks
from src.training.experiment import build_seeded_model


class MemberTrainer:
    """Stand-in for Lightning's trainer with the state of one member; all other attributes are those of the group's trainer.

    Args:
        group: the trainer of the group.
        member: to which it belongs.
    """

    checkpoints_are_copies = True
    """Checkpoints contain copies: a view would save the tensors of all members."""

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
    """Function that returns the progress of the group's loops; this and the next two are set by `Member.connect`."""
    defer_write: Callable[[], bool]
    """Function that returns whether the write at the end of an epoch is deferred."""
    saved_random_state: Callable[[torch.device], dict[str, Any]]
    """Function that returns the states of the random number generators that a checkpoint records."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    @property
    def lightning_module(self) -> L.LightningModule:
        return self._member.model

    @property
    def datamodule(self) -> DataModule:
        return self._member.datamodule

    def save_checkpoint(self, filepath: str | Path, weights_only: bool | None = None) -> None:
        """Save a checkpoint of the member."""
        self._group.strategy.save_checkpoint(self._checkpoint_connector.dump_checkpoint(weights_only), filepath)


class Member:
    """One job of a group.

    Args:
        number: number of the job.
        config: config of the job.
        folder: its run folder, created or resumed.
        datamodule: datamodule of the group, with the data loaded.
        trainer: trainer of the group.
        callbacks: in addition to those of the config.
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
        self.model = build_seeded_model(config, datamodule)
        self._initial_random_state = random_state(trainer.strategy.root_device)
        self.trainer = MemberTrainer(trainer, self)
        all_callbacks = [*build_callbacks(config, folder, datamodule.task, verbose=False), *callbacks]
        self.trainer.callbacks = sorted(all_callbacks, key=lambda callback: isinstance(callback, Checkpoint))
        self.model.trainer = self.trainer  # type: ignore[assignment]
        self.closed = False

    @cached_property
    def optimizer(self) -> Optimizer:
        return self.trainer.optimizers[0]

    # ---- Course of a run -------------------------------------------------------------------------------------------

    def set_up(self, checkpoint: dict[str, Any] | None) -> None:
        """Make the optimizer and the schedules, and load the state of a checkpoint, in the order of Lightning."""
        trainer, model, plain = self.trainer, self.model, self.config.plain()
        self.trainer.loggers = build_loggers(plain["logger"], self.folder, plain, concurrent=True)
        for callback in trainer.callbacks:
            callback.setup(trainer, model, "fit")  # type: ignore[arg-type]
        if checkpoint is not None:
            with name_errors(self.folder.checkpoint("last")):
                self._restore(checkpoint)
        trainer.optimizers, schedules = build_optimization(model, model.spec.task, self.config, trainer)  # type: ignore[arg-type]
        mark_stepped(self.optimizer)
        trainer.lr_scheduler_configs = [LRSchedulerConfig(**schedule) for schedule in schedules]
        if checkpoint is not None:
            with name_errors(self.folder.checkpoint("last")):
                self._restore_optimization(checkpoint)

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Load the weights and the states of the callbacks from a checkpoint."""
        trainer, model = self.trainer, self.model
        model.load_state_dict(checkpoint["state_dict"])
        for callback in trainer.callbacks:
            callback.on_load_checkpoint(trainer, model, checkpoint)  # type: ignore[arg-type]
        for callback in trainer.callbacks:
            if (state := checkpoint["callbacks"].get(callback.state_key)) is not None:
                check_callback(callback, state)
                callback.load_state_dict(state)

    def _restore_optimization(self, checkpoint: dict[str, Any]) -> None:
        """Load the states of the optimizer and the schedules from a checkpoint."""
        trainer = self.trainer
        check_optimizer(self.optimizer, checkpoint["optimizer_states"][0], steps_in(checkpoint))
        self.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        for entry, state in zip(trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=True):
            check_like(entry.scheduler.state_dict(), state, "the state of a schedule")
            entry.scheduler.load_state_dict(state)
        trainer.scheduler_progress.load_state_dict(checkpoint["loops"]["fit_loop"]["epoch_loop.scheduler_progress"])

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook of the callbacks that override it."""
        for callback in self.trainer.callbacks:
            if getattr(type(callback), hook) is not getattr(Callback, hook):
                getattr(callback, hook)(self.trainer, self.model, *arguments)

    def end_epoch(self) -> None:
        """Run the hooks of the end of an epoch in Lightning's order: callbacks, the model, and checkpoint callbacks last."""
        for callback in self.trainer.callbacks:
            if not isinstance(callback, Checkpoint):
                callback.on_train_epoch_end(self.trainer, self.model)  # type: ignore[arg-type]
        self.model.on_train_epoch_end()
        for callback in self.trainer.callbacks:
            if isinstance(callback, Checkpoint):
                callback.on_train_epoch_end(self.trainer, self.model)  # type: ignore[arg-type]

    def step_schedules(self, interval: str, index: int) -> bool:
        """Step the schedules after the `index`-th optimizer step or epoch, from 0; return whether any schedule stepped."""
        stepped = False
        for entry in self.trainer.lr_scheduler_configs:
            if entry.interval == interval and (index + 1) % entry.frequency == 0:
                self.trainer.scheduler_progress.increment_ready()
                self.model.lr_scheduler_step(entry.scheduler, None)
                self.trainer.scheduler_progress.increment_completed()
                stepped = True
        return stepped

    def connect(
        self, loops: Callable[[], dict[str, Any]], defer_write: Callable[[], bool], has_drawn: Callable[[], bool]
    ) -> None:
        """Connect the trainer of the member to the state that the member shares with its group.

        Args:
            loops: returns the progress of the group's loops.
            defer_write: returns whether the write at the end of an epoch is deferred.
            has_drawn: returns whether training has drawn random numbers; if not, the state of the generators is that of a
                separate run.
        """
        self.trainer.loops, self.trainer.defer_write = loops, defer_write
        self.trainer.saved_random_state = lambda device: (
            random_state(device) if has_drawn() else self._initial_random_state
        )

    def is_due(self) -> bool:
        """Return whether a checkpoint within an epoch is due."""
        return any(callback.is_due(self.trainer) for callback in self._checkpoint_callbacks)  # type: ignore[arg-type]

    def save_between_steps(self) -> None:
        """Save a checkpoint within an epoch."""
        for callback in self._checkpoint_callbacks:
            callback.save_between_steps(self.trainer)  # type: ignore[arg-type]

    @property
    def min_interval(self) -> float:
        """Minimum number of seconds between writes at the ends of epochs."""
        return max((callback.min_interval for callback in self._checkpoint_callbacks), default=0.0)

    @property
    def _checkpoint_callbacks(self) -> list[Checkpoints]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, Checkpoints)]

    # ---- End of a run ----------------------------------------------------------------------------------------------

    def end_training(self) -> None:
        """Run the hooks of the end of training, and load the best weights."""
        states = (callback.best_weights(self.trainer) for callback in self._checkpoint_callbacks)  # type: ignore[arg-type]
        best = next((weights for weights in states if weights), None)
        self.call("on_train_end")
        if best is not None:
            self.model.load_state_dict(best)
        self.trainer.state.fn, self.trainer.testing = TrainerFn.TESTING, True
        self.model.eval()

    def test(self, batches: Sequence[Batch], outputs: Sequence[Tensor] | None, meter: Any) -> None:
        """Test the weights, and record the end of the run.

        Args:
            batches: batches of the test split, on the device of the model.
            outputs: outputs of the model for each batch, if they are computed already.
            meter: the metrics of these outputs.
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
                        if isinstance(callback, Predictions):
                            callback.set_outputs(outputs[index])
                self.call("on_test_batch_end", None, batch, index)
            if outputs is not None:
                model.meters["test"] = meter
            self.call("on_test_epoch_end")
            with trainer.precision_plugin.forward_context():
                dtype = torch.get_default_dtype()  # Lightning rounds the metrics of a test to it
            tested = {name: float(value.to(dtype)) for name, value in model.compute_metrics("test").items()}
            self.call("on_test_end")
        for logger in trainer.loggers:
            logger.log_metrics(tested | {"epoch": trainer.current_epoch}, step=trainer.global_step)
        rows = folder.metrics()
        has_best = folder.has_checkpoint("best")
        epoch, metrics = best_epoch(rows, self.monitor, self.mode) if has_best else (None, last_epoch(rows))
        folder.set_entries(best_epoch=epoch, value=(metrics | tested).get(self.monitor), best=metrics)
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
        """Close the loggers."""
        close_loggers(self.trainer.loggers, exit_code)
        self.closed = True
