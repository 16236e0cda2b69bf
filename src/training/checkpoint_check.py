"""Check a checkpoint before Lightning restores a run from it, and name the file in every error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from src.core.checkpoint_schema import Damaged, check_callback, check_like, check_optimizer, name_errors, steps_in


class CheckpointCheck(Callback):
    """Compare each part of a checkpoint with the object that is restored from it.

    Lightning restores the model and the callbacks after `setup`, and the rest after `on_fit_start`. Between these hooks and
    the start of training, every error is caused by the checkpoint.
    """

    def __init__(self) -> None:
        self._checkpoint: dict[str, Any] | None = None
        self._is_restoring = False

    @contextmanager
    def wrap_restore_errors(self, trainer: L.Trainer) -> Iterator[None]:
        """Convert errors while restoring into a `UserError` that names the checkpoint.

        Args:
            trainer: trainer that is called in the body.
        """
        try:
            yield
        except Exception as error:
            if not self._is_restoring or trainer.ckpt_path is None:
                raise
            with name_errors(trainer.ckpt_path):
                raise error
        finally:
            self._checkpoint, self._is_restoring = None, False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._is_restoring = True

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if state := checkpoint["callbacks"].get(callback.state_key):
                check_callback(callback, state)
        self._checkpoint = checkpoint
        if trainer.optimizers:  # some strategies restore the model after creating the optimizers
            self._check_training_state(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_restoring = True
        if self._checkpoint is not None:
            self._check_training_state(trainer)

    def _check_training_state(self, trainer: L.Trainer) -> None:
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None or trainer.state.fn != TrainerFn.FITTING:
            return
        if "fit_loop" not in checkpoint["loops"]:
            raise Damaged("it contains no training progress")
        states = checkpoint["optimizer_states"]
        if len(states) != len(trainer.optimizers):
            raise Damaged(f"it has the states of {len(states)} optimizers, not {len(trainer.optimizers)}")
        for optimizer, state in zip(trainer.optimizers, states, strict=True):
            check_optimizer(optimizer, state, steps_in(checkpoint))
        for scheduler_config, state in zip(trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=False):
            check_like(scheduler_config.scheduler.state_dict(), state, "the state of a schedule")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_restoring = False

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_restoring = False
