"""What a run saves of itself, so that it can be resumed as if it had never stopped."""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from src.compat.loop_position import between_steps, knows_position, restore_position
from src.core.checkpoint_schema import is_count
from src.core.errors import UserError
from src.core.signals import stop_request
from src.models.summary import bytes_of
from src.run_store.atomic_write import linked
from src.training.checkpoint_io import _root_of

SMALL = 2**24
"""Bytes of parameters up to which a checkpoint, a few times as large, may wait in memory."""


def _linked(source: str, target: str) -> bool:
    return Path(source).parent == Path(target).parent and linked(Path(source), Path(target), _root_of(Path(target)))


class Checkpoints(ModelCheckpoint):
    """Saves last.ckpt after every epoch, and best.ckpt after every epoch that is better than all before it.

    Both are written after validation, at the very end of the epoch. The metrics of the epoch are saved too: a later epoch
    that is not validated is still compared by them. Where epochs are shorter than `pause`, most of a run would be
    writing: then a best epoch waits in memory, and both files are written after the first, the last, and one every
    `pause` in between. A process that is killed repeats what it did since, and comes to the same.

    last.ckpt is also written within an epoch, between two optimizer steps: at intervals, and when the run is asked to
    stop. The loader must be able to say how far it is, as `BatchLoader` is. Several processes would have to agree on the
    moment, so there only `every_n_steps` counts.

    Args:
        dirpath: where; the run passes its folder's checkpoints/.
        monitor: the metric that selects the best epoch; None: the best is the last.
        mode: whether it should be ``min`` or ``max``.
        every_n_steps: optimizer steps between two checkpoints within an epoch; None: not by steps.
        every_minutes: minutes between two checkpoints within an epoch; None: not by time.
        pause: seconds between two ends of epochs that are written; 0 writes all, as `every_n_steps`, several processes
            and models of more than `SMALL` do.
    """

    best_epoch: int | None
    """The epoch of best.ckpt, from 0."""

    def __init__(
        self,
        dirpath: str | os.PathLike[str],
        monitor: str | None = None,
        mode: str = "min",
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
        pause: float = 1.0,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_minutes", every_minutes)):
            if value is not None and value <= 0:
                raise UserError(f"callbacks.checkpoints.{name}={value}: must be above 0, or null for none")
        super().__init__(
            dirpath=str(dirpath),
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.best_epoch = None
        self._every_n_steps = every_n_steps
        self._every_seconds = None if every_minutes is None else 60 * every_minutes
        self.pause = 0.0 if every_n_steps else pause
        self.too_soon: Callable[[], bool] = self._too_soon
        """Whether the end of this epoch need not be written; a group of runs answers for all of its members alike."""
        self._waits = False
        self._best_in_memory: dict[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._best_step: int | None = None
        self._metrics: dict[str, float] = {}
        self._resumed = False

    # ---- saving ------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        with warnings.catch_warnings():  # that the folder of a resumed run is not empty
            warnings.simplefilter("ignore")
            super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._should_skip_saving_checkpoint(trainer):
            return
        self._metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        candidates = self._monitor_candidates(trainer)
        self._waits = self._may_wait(trainer)
        # The best comes first: a crash in between leaves a last.ckpt that knows nothing of it and repeats the epoch.
        if self.monitor is None or self.monitor in candidates:
            self._save_topk_checkpoint(trainer, candidates)
        if not self._waits:
            self._write_best(trainer)
            self._save_last_checkpoint(trainer, candidates)
        self._waits = False

    def _may_wait(self, trainer: L.Trainer) -> bool:
        """Tell whether the files of this epoch may be left to a later one, which will come."""
        if not self.pause or not self.too_soon():
            return False
        last = (
            trainer.current_epoch + 1 == trainer.max_epochs
            or trainer.fit_loop.epoch_loop.global_step == trainer.max_steps
        )
        ends = last or trainer.should_stop or stop_request.made
        return not ends and trainer.world_size == 1 and bytes_of(trainer.lightning_module) <= SMALL

    def best_weights(self, trainer: L.Trainer) -> dict[str, Tensor] | None:
        """Return the weights of the best epoch; None where they are those that the model has, or where there is none.

        Args:
            trainer: of a run whose last epoch has just ended.
        """
        if self._best_in_memory is not None:
            return self._best_in_memory["state_dict"]  # type: ignore[no-any-return]
        if not self.best_model_path or self._best_step == trainer.global_step:
            return None
        return trainer.strategy.checkpoint_io.load_checkpoint(self.best_model_path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]

    def _too_soon(self) -> bool:
        return self._last_global_step_saved != 0 and time.monotonic() - self._saved_at < self.pause

    def _write_best(self, trainer: L.Trainer) -> None:
        """Write the best epoch, if it waits in memory."""
        if self._best_in_memory is not None:
            trainer.strategy.save_checkpoint(self._best_in_memory, self.best_model_path)
            self._best_in_memory = None

    def _monitor_candidates(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """Return the metrics as they are: Lightning copies each, though nobody changes one in its place."""
        now = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
        return {**trainer.callback_metrics, **now}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if stop_request.made:  # during validation or the last step before it
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not (stop_request.made or self.is_due(trainer)) or not between_steps(trainer):
            return
        self.save_between_steps(trainer)
        if stop_request.made:
            raise KeyboardInterrupt

    def save_between_steps(self, trainer: L.Trainer) -> None:
        """Write last.ckpt within an epoch, unless it has this step."""
        if self._last_global_step_saved != trainer.global_step:
            self._write_best(trainer)
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def is_due(self, trainer: L.Trainer) -> bool:
        """Tell whether it is time for a checkpoint within an epoch."""
        if (
            self._every_n_steps is not None
            and trainer.global_step - self._last_global_step_saved >= self._every_n_steps
        ):
            return True
        alone = trainer.world_size == 1
        return alone and self._every_seconds is not None and time.monotonic() - self._saved_at >= self._every_seconds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stop_request.awaited = False
        self._write_best(trainer)
        super().on_train_end(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        stop_request.awaited = False
        self._write_best(trainer)

    def forget_best(self, trainer: L.Trainer) -> None:
        """Let the next epoch be the best whatever came before, as its weights are of another kind."""
        self._write_best(trainer)
        self.best_k_models, self.best_model_score = {}, None
        self.best_model_path = self.kth_best_model_path = ""

    def _update_best_and_save(self, current: Tensor, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self.best_epoch = trainer.current_epoch
        self._best_step = trainer.global_step
        super()._update_best_and_save(current, trainer, monitor_candidates)

    def _save_none_monitor_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self.best_epoch = trainer.current_epoch
        self._best_step = trainer.global_step
        super()._save_none_monitor_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Write a state once: where best.ckpt and last.ckpt are the same, the second is a link to the first."""
        if self._waits:
            state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            self._best_in_memory = state if getattr(trainer, "dumps_copies", False) else _copy(state)
            return
        if filepath == self.best_model_path:
            self._best_in_memory = None
        self._saved_at = time.monotonic()
        same_state = self._last_global_step_saved == trainer.global_step
        is_linked = same_state and trainer.is_global_zero and _linked(self._last_checkpoint_saved, filepath)
        if not trainer.strategy.broadcast(is_linked):
            super()._save_checkpoint(trainer, filepath)

    # ---- resuming ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        best = dict(state["best_k_models"])  # which is changed in its place
        return {**state, "best_k_models": best, "best_epoch": self.best_epoch, "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back which epoch was the best. No path is taken from the state: both files are those of this folder."""
        best, last = (os.path.join(str(self.dirpath), f"{name}{self.FILE_EXTENSION}") for name in ("best", "last"))
        has_best = bool(state_dict["best_model_path"]) and os.path.isfile(best)
        score, epoch = state_dict["best_model_score"], state_dict["best_epoch"]
        metrics = state_dict["metrics"]
        if not isinstance(score, Tensor | float | int | None) or not (epoch is None or is_count(epoch)):
            raise ValueError("the score or the epoch of its best weights is not a number")
        if not isinstance(metrics, dict) or not all(
            isinstance(name, str) and isinstance(value, float | int) for name, value in metrics.items()
        ):
            raise ValueError("its metrics are not numbers by their names")
        score = torch.as_tensor(score) if isinstance(score, float | int) else score
        if score is not None and score.numel() != 1:
            raise ValueError("the score of its best weights is not a number")
        here = {**state_dict, "dirpath": str(self.dirpath), "best_model_score": score}
        here["best_model_path"] = here["kth_best_model_path"] = best if has_best else ""
        here["last_model_path"] = last if state_dict["last_model_path"] else ""
        here["best_k_models"] = {best: score} if has_best and state_dict["best_k_models"] and score is not None else {}
        here["kth_value"] = score if score is not None else self.kth_value
        super().load_state_dict(here)
        self.best_epoch = epoch
        self._metrics = metrics
        self._resumed = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_at = time.monotonic()
        stop_request.awaited = trainer.world_size == 1 and knows_position(trainer)
        if not self._resumed:
            return
        self._resumed = False
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})
        restore_position(trainer)


def _copy(value: Any) -> Any:
    """Return plain containers with copies of their tensors, as training goes on with these."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return type(value)((key, _copy(item)) for key, item in value.items())
    return type(value)(map(_copy, value)) if type(value) in (list, tuple) else value
