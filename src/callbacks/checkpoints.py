"""Checkpoints of a run, from which it is resumed exactly."""

import copy
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from src.compat.loop_position import can_resume_mid_epoch, can_save_mid_epoch, restore_position
from src.core.checkpoint_schema import is_count
from src.core.errors import UserError
from src.core.signals import shutdown_request
from src.models.summary import parameter_bytes
from src.run_store.atomic_write import atomic_link
from src.training.checkpoint_io import checkpoint_in_memory, checkpoint_root

SMALL = 2**24
"""Maximum size of the parameters, in bytes, of a model whose checkpoint (a few times as large) may be held in memory."""


def _link(source: Path, target: Path) -> bool:
    return source.parent == target.parent and atomic_link(source, target, checkpoint_root(target))


class Checkpoints(Checkpoint):
    """Save last.ckpt after every epoch, and best.ckpt after every epoch that is better than all previous ones.

    Both are written after validation, at the very end of the epoch. The metrics of the epoch are saved too: a later epoch
    without validation is compared by them. With epochs shorter than the minimum interval, a run would spend most of its
    time writing. The best epoch is then held in memory, and both files are written after the first and the last epoch
    and once per interval in between. A run that is killed repeats the epochs since, with the same result.

    last.ckpt is also written within an epoch, between two optimizer steps: at intervals, and on a shutdown request. The
    loader must support saving its position, as `BatchLoader` does. With several processes, which would have to agree on
    the time, only `every_n_steps` applies.

    Args:
        dirpath: folder of the checkpoints; a run passes checkpoints/ of its run folder.
        monitor: metric that selects the best epoch; None: the last epoch is the best.
        mode: ``min`` or ``max``.
        every_n_steps: optimizer steps between two checkpoints within an epoch; None: not by steps.
        every_minutes: minutes between two checkpoints within an epoch; None: not by time.
        min_interval: minimum time in seconds between two ends of epochs that are written. 0 writes after every epoch, and so do
            runs with `every_n_steps`, with several processes, or with parameters of more than `SMALL` bytes.

    Raises:
        UserError: if an interval is not positive.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str],
        monitor: str | None = None,
        mode: str = "min",
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
        min_interval: float = 1.0,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_minutes", every_minutes)):
            if value is not None and value <= 0:
                raise UserError(f"callbacks.checkpoints.{name}={value}: must be above 0, or null to disable it")
        self.dirpath = Path(dirpath).absolute()
        self.monitor, self.mode = monitor, mode
        self.best_epoch: int | None = None
        """Epoch of best.ckpt, counted from 0."""
        self.best_score: float | None = None
        """Value of the monitor in that epoch."""
        self._every_n_steps = every_n_steps
        self._every_seconds = None if every_minutes is None else 60 * every_minutes
        self.min_interval = 0.0 if every_n_steps else min_interval
        self.defer_write: Callable[[], bool] = self._is_within_interval
        """Whether writing the end of this epoch may be deferred; in fused training, the group decides for all members."""
        self._defers = False
        self._best_in_memory: dict[str, Any] | None = None
        self._has_best = False
        self._best_step: int | None = None
        self._saved_step = 0
        self._saved_path: Path | None = None
        self._saved_at = time.monotonic()
        self._metrics: dict[str, float] = {}
        self._resumed = False

    # ---- attributes of Lightning's ModelCheckpoint that loggers read ----------------------------------------------

    @property
    def best_model_path(self) -> str:
        """Path of best.ckpt; empty if there is none yet."""
        return str(self.dirpath / "best.ckpt") if self._has_best else ""

    @property
    def last_model_path(self) -> str:
        """Path of last.ckpt."""
        return str(self.dirpath / "last.ckpt")

    @property
    def best_model_score(self) -> float | None:
        """Value of the monitor in the best epoch."""
        return self.best_score

    @property
    def best_k_models(self) -> dict[str, float]:
        """Path of the best checkpoint and its score."""
        return {self.best_model_path: self.best_score} if self._has_best and self.best_score is not None else {}

    # ---- saving ------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fast_dev_run or self._saved_step == trainer.global_step:  # type: ignore[attr-defined]
            return
        self._metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._defers = self._may_defer(trainer)
        # Write the best first: after a crash in between, last.ckpt is of an earlier epoch, and the epoch is repeated.
        if self._is_best(trainer):
            self._has_best = True
            self.best_epoch, self._best_step = trainer.current_epoch, trainer.global_step
            self._save(trainer, Path(self.best_model_path))
        if not self._defers:
            self._write_best(trainer)
            self._save(trainer, Path(self.last_model_path))
        self._defers = False

    def _is_best(self, trainer: L.Trainer) -> bool:
        """Return whether the epoch is the best so far, and if it is, store its score."""
        if self.monitor is None:
            return True
        if self.monitor not in self._metrics:
            return False
        score, best = self._metrics[self.monitor], self.best_score
        if math.isnan(score):
            score = math.inf if self.mode == "min" else -math.inf
        is_better = best is None or (score < best if self.mode == "min" else score > best)
        is_better = trainer.strategy.reduce_boolean_decision(is_better)
        if is_better:
            self.best_score = score
        return is_better

    def _may_defer(self, trainer: L.Trainer) -> bool:
        """Return whether the files of this epoch may be deferred to a later one, which is certain to follow."""
        if not self.min_interval or not self.defer_write():
            return False
        is_last = (
            trainer.current_epoch + 1 == trainer.max_epochs
            or trainer.fit_loop.epoch_loop.global_step == trainer.max_steps
        )
        ends = is_last or trainer.should_stop or shutdown_request.received
        is_small = parameter_bytes(trainer.lightning_module) <= SMALL
        return not ends and trainer.world_size == 1 and is_small

    def best_weights(self, trainer: L.Trainer) -> dict[str, Tensor] | None:
        """Return the weights of the best epoch; None if the model has them already, or if there is no best epoch.

        Args:
            trainer: trainer of a run whose last epoch has just ended.
        """
        if self._best_in_memory is not None:
            return self._best_in_memory["state_dict"]  # type: ignore[no-any-return]
        if not self._has_best or self._best_step == trainer.global_step:
            return None
        return trainer.strategy.checkpoint_io.load_checkpoint(self.best_model_path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]

    def _is_within_interval(self) -> bool:
        return self._saved_step != 0 and time.monotonic() - self._saved_at < self.min_interval

    def _write_best(self, trainer: L.Trainer) -> None:
        """Write the best epoch, if it is held in memory."""
        if self._best_in_memory is not None:
            trainer.strategy.save_checkpoint(self._best_in_memory, self.best_model_path)
            self._best_in_memory = None

    def _save(self, trainer: L.Trainer, path: Path) -> None:
        """Save the state once: if best.ckpt and last.ckpt are the same, the second is a hard link to the first."""
        if self._defers:
            state = checkpoint_in_memory(trainer)
            self._best_in_memory = state if getattr(trainer, "checkpoints_are_copies", False) else _copy(state)
            return
        if path.name == "best.ckpt":
            self._best_in_memory = None
        self._saved_at = time.monotonic()
        is_linked = (
            self._saved_path is not None
            and self._saved_step == trainer.global_step
            and trainer.is_global_zero
            and _link(self._saved_path, path)
        )
        if trainer.strategy.broadcast(is_linked):
            return
        trainer.save_checkpoint(path, weights_only=False)
        self._saved_step, self._saved_path = trainer.global_step, path
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)  # type: ignore[arg-type]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if shutdown_request.received:  # during validation, or during the last step before it
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not (shutdown_request.received or self.is_due(trainer)) or not can_save_mid_epoch(trainer):
            return
        self.save_between_steps(trainer)
        if shutdown_request.received:
            raise KeyboardInterrupt

    def save_between_steps(self, trainer: L.Trainer) -> None:
        """Write last.ckpt within an epoch, unless it was written after this step already."""
        if self._saved_step != trainer.global_step:
            self._write_best(trainer)
            self._save(trainer, Path(self.last_model_path))

    def is_due(self, trainer: L.Trainer) -> bool:
        """Return whether a checkpoint within an epoch is due."""
        if self._every_n_steps is not None and trainer.global_step - self._saved_step >= self._every_n_steps:
            return True
        if self._every_seconds is None or trainer.world_size > 1:
            return False
        return time.monotonic() - self._saved_at >= self._every_seconds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        shutdown_request.deferrable = False
        self._write_best(trainer)
        if self._saved_path is None:
            self._save(trainer, Path(self.last_model_path))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        shutdown_request.deferrable = False
        self._write_best(trainer)

    def reset_best(self, trainer: L.Trainer) -> None:
        """Discard the best epoch so far, because the weights of later epochs are not comparable with it (averaged weights)."""
        self._write_best(trainer)
        self.best_score, self._has_best = None, False

    # ---- resuming ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "has_best": self._has_best,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "metrics": self._metrics,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore which epoch was the best. The state contains no path: both files are in this folder."""
        score, epoch, metrics = state_dict["best_score"], state_dict["best_epoch"], state_dict["metrics"]
        if not isinstance(score, float | int | None) or not (epoch is None or is_count(epoch)):
            raise ValueError("the score or the epoch of its best weights is not a number")
        if not isinstance(metrics, dict) or not all(
            isinstance(name, str) and isinstance(value, float | int) for name, value in metrics.items()
        ):
            raise ValueError("its metrics are not a dictionary of numbers")
        self._has_best = bool(state_dict["has_best"]) and (self.dirpath / "best.ckpt").is_file()
        self.best_score = score if self._has_best else None
        self.best_epoch = epoch
        self._metrics = metrics
        self._resumed = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        shutdown_request.deferrable = trainer.world_size == 1 and can_resume_mid_epoch(trainer)
        if not self._resumed:
            return
        self._resumed = False
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})
        restore_position(trainer)


def _copy(value: Any) -> Any:
    """Return a copy of plain containers and of their tensors and arrays, which training continues to change."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps attributes, such as the versions of layers in a state_dict
        for key, inner in value.items():
            copied[key] = _copy(inner)
        return copied
    if type(value) in (list, tuple):
        return type(value)(map(_copy, value))
    return value.copy() if isinstance(value, set | np.ndarray) else value
