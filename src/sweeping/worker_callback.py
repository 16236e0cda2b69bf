"""A callback that reports the progress of a job to the driver of the sweep."""

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from src.sweeping.messages import Progress


class Reporter(Callback):
    """Sends the metrics of every epoch, once all of them are logged.

    Args:
        number: number of the job.
        send: called with each event.
    """

    def __init__(self, number: int, send: Callable[[Any], None]) -> None:
        self._number = number
        self._send = send
        self._due = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._due = True  # other callbacks and the model may still log

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, trainer.current_epoch - 1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, trainer.current_epoch - 1)

    def _report(self, trainer: L.Trainer, epoch: int) -> None:
        if self._due and trainer.is_global_zero:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self._send(Progress(self._number, epoch, trainer.max_epochs or 0, metrics))
        self._due = False
