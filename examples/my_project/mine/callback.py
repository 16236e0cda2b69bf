import time

from lightning.pytorch.callbacks import Callback


class TimeLimit(Callback):
    """Ends training after the epoch in which the time is up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = 0.0

    def on_train_start(self, trainer, pl_module) -> None:
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if time.monotonic() - self.started > self.seconds:
            trainer.should_stop = True
