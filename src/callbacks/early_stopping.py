"""Early stopping that can be switched off by its patience (textbook, Early Stopping)."""

import logging
import math
import sys
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

log = logging.getLogger(__name__)


class EarlyStopping(LightningEarlyStopping):
    """Stops when the monitor has not improved for `patience` validations; the best weights are tested in the end.

    Args:
        monitor, mode: what is best.
        patience: validations to wait; None never stops. A resumed run takes it from its config and not from its
            checkpoint, so that one that stopped can be given more; given more epochs, it waits anew.
        min_delta: a smaller change is no improvement.

    Raises:
        FloatingPointError: during training, when the monitor is no number: nothing would ever be better or worse.
    """

    def __init__(
        self, monitor: str, mode: Literal["min", "max"], patience: int | None = 10, min_delta: float = 0.0
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            patience=sys.maxsize if patience is None else patience,
            min_delta=min_delta,
            check_finite=False,  # an infinite loss fails the run, see Model; an infinite perplexity may pass
            check_on_train_epoch_end=True if monitor.startswith("train/") else None,
        )

        self._epochs = self._epochs_before = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._epochs = trainer.max_epochs or 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"max_epochs": self._epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score, waited, epochs = state_dict["best_score"], state_dict["wait_count"], state_dict.get("max_epochs", 0)
        if (
            not isinstance(score, torch.Tensor)
            or score.numel() != 1
            or type(waited) is not int
            or type(epochs) is not int
        ):
            raise ValueError("the state of early stopping is not a score and counts")
        super().load_state_dict(state_dict | {"patience": self.patience})
        self._epochs_before = state_dict.get("max_epochs", 0)

    def forget_best(self) -> None:
        """Let the next validation be the best whatever came before, as its weights are of another kind."""
        self.wait_count = 0
        self.best_score = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide what becomes of a run that was resumed after it had stopped."""
        if self.wait_count < self.patience:
            return
        if self._epochs <= self._epochs_before:
            trainer.should_stop = True
            return
        log.warning(
            "this run had stopped early, after %d epochs without a better %s; with trainer.max_epochs=%s it waits anew "
            "for regularization.early_stopping_patience=%d epochs",
            self.wait_count,
            self.monitor,
            self._epochs,
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
