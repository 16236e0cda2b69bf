"""Early stopping, which a patience of None disables (textbook, Early Stopping)."""

import logging
import math
import sys
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

log = logging.getLogger(__name__)


class EarlyStopping(LightningEarlyStopping):
    """Stop training when the monitor has not improved for `patience` validations; the best weights are tested in the end.

    Args:
        monitor: metric to monitor.
        mode: ``min`` or ``max``.
        patience: validations without improvement before training stops; None never stops. A resumed run takes it from its
            config, not from its checkpoint, so that the patience of a stopped run can be raised. With more epochs, the
            count starts again at 0.
        min_delta: minimum change of the monitor that counts as an improvement.

    Raises:
        FloatingPointError: during training, if the monitor is NaN, which is never better or worse.
    """

    def __init__(
        self, monitor: str, mode: Literal["min", "max"], patience: int | None = 10, min_delta: float = 0.0
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            patience=sys.maxsize if patience is None else patience,
            min_delta=min_delta,
            check_finite=False,  # an infinite loss fails the run, see Model; an infinite perplexity does not
            check_on_train_epoch_end=True if monitor.startswith("train/") else None,
        )

        self._max_epochs = self._checkpoint_max_epochs = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._max_epochs = trainer.max_epochs or 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"max_epochs": self._max_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score, wait_count = state_dict["best_score"], state_dict["wait_count"]
        max_epochs = state_dict.get("max_epochs", 0)
        if (
            not isinstance(score, torch.Tensor)
            or score.numel() != 1
            or type(wait_count) is not int
            or type(max_epochs) is not int
        ):
            raise ValueError("the state of early stopping is not a score and counts")
        super().load_state_dict(state_dict | {"patience": self.patience})
        self._checkpoint_max_epochs = max_epochs

    def reset_best(self) -> None:
        """Discard the best score so far, because the weights of later epochs are not comparable with it (averaged weights)."""
        self.wait_count = 0
        self.best_score = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop a run that is resumed after it had stopped early, unless it has more epochs now."""
        if self.wait_count < self.patience:
            return
        if self._max_epochs <= self._checkpoint_max_epochs:
            trainer.should_stop = True
            return
        log.warning(
            "this run had stopped early, after %d epochs without a better %s; with trainer.max_epochs=%s it resumes, and "
            "the patience (regularization.early_stopping_patience=%d) starts again",
            self.wait_count,
            self.monitor,
            self._max_epochs,
            self.patience,
        )
        self.wait_count = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_monitor(trainer)
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_monitor(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def _check_monitor(self, trainer: L.Trainer) -> None:
        if math.isnan(float(trainer.callback_metrics.get(self.monitor, 0.0))):
            raise FloatingPointError(f"{self.monitor} is nan after epoch {trainer.current_epoch + 1}")
