"""Progress display of a run: a bar on a terminal, or one line per epoch in a log."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor

from src.core.console import echo, format_duration, format_number, on_terminal
from src.core.escape import line

_STAGES = {"train": "", "validate": "validating", "test": "testing"}
_BAR_WIDTH = 16


class Progress(Callback):
    """Show a bar on a terminal, or print one line per epoch to a log.

    Most steps only read the clock: the loss is copied from the device, and the bar is redrawn, a few times per second.

    Args:
        refresh: seconds between two updates of the bar.
        min_interval: minimum time in seconds between two lines in a log; lines of shorter epochs are left out, except those of
            the first and the last epoch.
        patience: seconds after which an unfinished epoch prints its progress to a log.
    """

    is_console_output = True
    """Whether the callback only prints; quiet runs leave it out."""

    def __init__(self, refresh: float = 0.1, min_interval: float = 3.0, patience: float = 30.0) -> None:
        assert refresh >= 0.1, "updating the bar more often costs more than it is worth"
        self.refresh = refresh
        self.min_interval = min_interval
        self.patience = patience
        self._progress_printed = 0.0
        self._bar: Bar | None = None
        self._last_drawn = 0.0
        self._epoch_printed: float | None = None
        self._started = 0.0
        self._first_epoch = 0
        self._epoch_started = 0.0
        self._ended: tuple[int, float] | None = None

    # ---- training ------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._epoch_started = (
            time.monotonic()
        )  # a run that is resumed within an epoch gets no on_train_epoch_start
        self._first_epoch = trainer.current_epoch
        self._epoch_printed = None
        self._open(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print_epoch(trainer)
        self._epoch_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._last_drawn >= self.refresh:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self._draw(trainer, "train", batch_idx + 1, trainer.num_training_batches, now, loss)
        elif (
            self._bar is None
            and now - max(self._epoch_started, self._progress_printed) >= self.patience
            and trainer.is_global_zero
        ):
            echo(
                f"{_epoch(trainer, trainer.current_epoch)}  step {batch_idx + 1}/{trainer.num_training_batches:g}",
                flush=True,
            )
            self._progress_printed = now

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended = trainer.current_epoch, time.monotonic() - self._epoch_started

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print_epoch(trainer, last=True)
        self._close()

    # ---- validation and test -------------------------------------------------------------------------------------

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *more: Any
    ) -> None:
        self._update_bar(trainer, "validate", batch_idx, trainer.num_val_batches)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()
        self._open(trainer)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *more: Any
    ) -> None:
        self._update_bar(trainer, "test", batch_idx, trainer.num_test_batches)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._print_epoch(trainer, last=True)
        self._close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._close()

    # ---- the bar -------------------------------------------------------------------------------------------------

    def _open(self, trainer: L.Trainer) -> None:
        if not (trainer.is_global_zero and on_terminal()):
            return
        description, text = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[text]"))
        self._bar = Bar(
            description,
            BarColumn(bar_width=_BAR_WIDTH),
            text,
            auto_refresh=False,
            transient=True,
            console=Console(markup=False),
        )
        self._bar.add_task("", total=1.0, text="")
        self._bar.start()
        self._last_drawn = 0.0

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _update_bar(self, trainer: L.Trainer, stage: str, batch_idx: int, totals: list[int | float]) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._last_drawn >= self.refresh:
            self._draw(trainer, stage, batch_idx + 1, sum(totals), now)

    def _draw(
        self, trainer: L.Trainer, stage: str, done: int, total: int | float, now: float, loss: Tensor | None = None
    ) -> None:
        assert self._bar is not None
        self._last_drawn = now
        share = done / total if 0 < total < float("inf") else 0.0
        labels, parts = [_STAGES[stage]], [f"{done}/{total:g}" if share else str(done)]
        if stage != "test":
            labels.insert(0, _epoch(trainer, trainer.current_epoch))
            seconds_left = self._time_left(trainer, share if stage == "train" else 1.0, now)
            if seconds_left is not None:
                parts.append(f"{format_duration(seconds_left)} left")
            if loss is not None:
                parts.append(f"loss {format_number(float(loss))}")
            parts += _values(trainer, "val/")
        description = " ".join(filter(None, labels))
        width = self._bar.console.width - len(description) - _BAR_WIDTH - 3
        while len(parts) > 1 and len("  ".join(parts)) > width:  # drop whole entries, as Rich would cut all columns
            parts.pop()
        self._bar.update(self._bar.task_ids[0], completed=share, description=description, text="  ".join(parts))
        self._bar.refresh()

    def _time_left(self, trainer: L.Trainer, share: float, now: float) -> float | None:
        """Return the estimated seconds until the last epoch ends, from the mean time of the epochs in this process."""
        if not trainer.max_epochs or trainer.max_epochs < 0:
            return None
        done = trainer.current_epoch - self._first_epoch + share
        remaining = trainer.max_epochs - self._first_epoch - done
        return (now - self._started) / done * remaining if done > 0 else None

    # ---- the lines -----------------------------------------------------------------------------------------------

    def _print_epoch(self, trainer: L.Trainer, last: bool = False) -> None:
        """Print the epoch that ended; called after its hooks, because its metrics are complete only then."""
        if self._ended is None or not trainer.is_global_zero:
            return
        epoch, seconds = self._ended
        now = time.monotonic()
        if self._bar is None and (
            last or self._epoch_printed is None or now - self._epoch_printed >= self.min_interval
        ):
            parts = [
                _epoch(trainer, epoch),
                *_values(trainer, "train/"),
                *_values(trainer, "val/"),
                format_duration(seconds),
            ]
            echo("  ".join(parts), flush=True)
            self._epoch_printed = now
        self._ended = None


def _epoch(trainer: L.Trainer, epoch: int) -> str:
    """Return the epoch, counted from 1, and the number of epochs."""
    is_limited = trainer.max_epochs is not None and trainer.max_epochs > 0
    return f"epoch {epoch + 1}/{trainer.max_epochs}" if is_limited else f"epoch {epoch + 1}"


def _values(trainer: L.Trainer, prefix: str) -> list[str]:
    """Return the metrics of a split as texts, the loss first."""
    metrics = {name: value for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
    names = sorted(metrics, key=lambda name: name != f"{prefix}loss")
    return [f"{line(name)} {format_number(float(metrics[name]))}" for name in names]
