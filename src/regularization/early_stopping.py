"""Early stopping that can be switched off by its patience (textbook, Early Stopping)."""

import math
import sys
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping


class EarlyStopping(LightningEarlyStopping):
    """Stops when the monitor has not improved for `patience` validations; the best weights are tested in the end.

    Args:
        monitor, mode: what is best.
        patience: validations to wait; None never stops. A resumed run takes it from its config and not from its
            checkpoint, so that one that stopped can be given more.
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})

    def _run_early_stopping_check(self, trainer: L.Trainer) -> None:
        if math.isnan(float(trainer.callback_metrics.get(self.monitor, 0.0))):
            raise FloatingPointError(f"{self.monitor} is nan after epoch {trainer.current_epoch + 1}")
        super()._run_early_stopping_check(trainer)
