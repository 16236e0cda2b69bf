"""Checkpoint connector of Lightning that checks each part of a checkpoint before it restores it."""

from pathlib import Path

from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.states import TrainerFn

from src.core.checkpoint_schema import _Damaged, check_callback, check_like, check_optimizer, named, steps_in


class RestoringConnector(_CheckpointConnector):
    """Restores a run as Lightning does, after checking that each part fits what takes it.

    Raises:
        UserError: for a checkpoint that is damaged; nothing of training has begun then.
    """

    def _restore_modules_and_callbacks(
        self, checkpoint_path: str | Path | None = None, weights_only: bool | None = None
    ) -> None:
        if not checkpoint_path:
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)
            return
        with named(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        if not self._loaded_checkpoint:
            return
        with named(self._ckpt_path):
            if self.trainer.state.fn == TrainerFn.FITTING and "fit_loop" not in self._loaded_checkpoint.get(
                "loops", {}
            ):
                raise _Damaged("it has no progress of training")
            super().restore_training_state()

    def restore_callbacks(self) -> None:
        states = self._loaded_checkpoint.get("callbacks", {})
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if state := states.get(callback.state_key):
                check_callback(callback, state)
        super().restore_callbacks()

    def restore_optimizers(self) -> None:
        states = self._loaded_checkpoint["optimizer_states"]
        if len(states) != len(self.trainer.optimizers):
            raise _Damaged(f"it has the states of {len(states)} optimizers, not {len(self.trainer.optimizers)}")
        for optimizer, state in zip(self.trainer.optimizers, states, strict=True):
            check_optimizer(optimizer, state, steps_in(self._loaded_checkpoint))
        super().restore_optimizers()

    def restore_lr_schedulers(self) -> None:
        states = self._loaded_checkpoint["lr_schedulers"]
        for entry, state in zip(self.trainer.lr_scheduler_configs, states, strict=False):
            check_like(entry.scheduler.state_dict(), state, "the state of a schedule")
        super().restore_lr_schedulers()
