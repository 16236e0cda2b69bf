"""Callback that saves the state of the random number generators with each checkpoint."""

import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from src.core.checkpoint_schema import is_scalar, named
from src.core.random_state import random_state, restore_random_state
from src.models.base import Model

log = logging.getLogger(__name__)


class RandomState(Callback):
    """Saves with a checkpoint what each process has of its own, and restores it when training resumes: the state of
    every random generator, and what a model needs to go on within an epoch.

    Lightning saves neither, so that dropout, batch mixing and augmentation would differ from those of a run that was not
    interrupted. It is restored before Lightning asks any loader for its first batch, as some draw their order then.
    """

    def __init__(self) -> None:
        self._own: dict[str, Any] = {}
        self.now: Callable[[torch.device], dict[str, Any]] = random_state
        """Tells the state that is saved; of a member of a group, that of a run of its own."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        own = {**self.now(trainer.strategy.root_device)}
        if isinstance(pl_module, Model):
            own |= pl_module.unfinished_epoch()
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        checkpoint["random_states"] = states

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        states = checkpoint.get("random_states", [])
        if trainer.global_rank < len(states):
            self._own = states[trainer.global_rank]
            _check_unfinished(self._own)
            restore_random_state(self._own, trainer.strategy.root_device)
        else:
            log.warning(
                "the checkpoint has no random state for process %d of %d, which goes on with its seed: the run will "
                "differ from one that was not interrupted",
                trainer.global_rank + 1,
                trainer.world_size,
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "partial_sums" in self._own:
            assert isinstance(pl_module, Model)
            with named(trainer.ckpt_path or "the checkpoint"):
                pl_module.go_on_with(self._own)
        self._own = {}


def _check_unfinished(state: dict[str, Any]) -> None:
    """Raise `ValueError` unless a state can be taken by `src.models.base.Model.go_on_with`."""
    if "partial_sums" in state:
        sums = state["partial_sums"]
        if not isinstance(sums, list) or len(sums) != 2 or not all(map(is_scalar, sums)):
            raise ValueError("its sums of an unfinished epoch are not numbers")
