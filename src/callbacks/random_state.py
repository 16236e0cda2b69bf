"""Save the states of the random number generators with each checkpoint, and restore them."""

import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from src.core.checkpoint_schema import is_scalar, name_errors
from src.core.random_state import random_state, restore_random_state
from src.models.base import Model

log = logging.getLogger(__name__)


class RandomState(Callback):
    """Save the state of each process with a checkpoint and restore it when training resumes: the states of all random
    number generators, and the state that a model needs to resume within an epoch.

    Lightning saves neither, so that dropout, batch mixing and augmentation would differ from those of an uninterrupted
    run. The states are restored before any loader is asked for its first batch, because some draw their order then.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # the trainer of a member of a group returns the state that a separate run would have
        get_state: Callable[[torch.device], dict[str, Any]] = getattr(trainer, "saved_random_state", random_state)
        state = {**get_state(trainer.strategy.root_device)}
        if isinstance(pl_module, Model):
            state |= pl_module.mid_epoch_state()
        states: list[Any] = [state]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, state)
        checkpoint["random_states"] = states

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        states = checkpoint.get("random_states", [])
        if trainer.global_rank < len(states):
            self._restored = states[trainer.global_rank]
            _check_mid_epoch_state(self._restored)
            restore_random_state(self._restored, trainer.strategy.root_device)
        else:
            log.warning(
                "the checkpoint has no random state for process %d of %d, which continues with its seed: the run will "
                "differ from an uninterrupted one",
                trainer.global_rank + 1,
                trainer.world_size,
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "partial_sums" in self._restored:
            assert isinstance(pl_module, Model)
            with name_errors(trainer.ckpt_path or "the checkpoint"):
                pl_module.load_mid_epoch_state(self._restored)
        self._restored = {}


def _check_mid_epoch_state(state: dict[str, Any]) -> None:
    """Raise `ValueError` unless the model can load the mid-epoch part of a state."""
    if "partial_sums" in state:
        sums = state["partial_sums"]
        if not isinstance(sums, list) or len(sums) != 2 or not all(map(is_scalar, sums)):
            raise ValueError("its sums of an unfinished epoch are not numbers")
