"""Progress display on a terminal and in a log."""

import io
import re
import sys
from itertools import pairwise
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.callbacks.progress import Progress
from src.core.console import format_duration, format_number


class Net(L.LightningModule):
    """Model whose metrics depend on the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight * 0 + 0.25

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", 10.0 + self.current_epoch)
        self.log("lr", 0.1)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val/accuracy": 0.5, "val/loss": 20.0 + self.current_epoch})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def run(progress: Progress, epochs: int, batches: int = 4) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[progress],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Net()
    data = DataLoader(torch.zeros(batches, 1))
    trainer.fit(model, data, data)
    trainer.test(model, data, verbose=False)
    return trainer


def test_a_log_has_one_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    run(Progress(min_interval=0.0), epochs=3)
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"[\d.]+ s$", "? s", line) for line in lines] == [
        f"epoch {e + 1}/3  train/loss {10 + e}  val/loss {20 + e}  val/accuracy 0.5  ? s" for e in range(3)
    ]


def test_a_log_has_no_line_for_most_short_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    run(Progress(min_interval=60.0), epochs=30)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/30", "epoch 30/30"]
    assert "train/loss 39" in lines[-1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that advances by a hundredth of a second at every call."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        self.now += 0.01
        return self.now


def test_the_bar_is_updated_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, screen = Clock(), Terminal()
    monkeypatch.setattr("src.callbacks.progress.time", clock)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    progress = Progress()
    updates: list[tuple[float, dict[str, Any]]] = []
    original = Progress._draw

    def draw(self: Progress, *arguments: Any) -> None:
        original(self, *arguments)
        assert self._bar is not None
        task = self._bar.tasks[0]
        updates.append((clock.now, {"description": task.description, **task.fields}))

    monkeypatch.setattr(Progress, "_draw", draw)
    start = clock.now
    run(progress, epochs=4, batches=100)
    times = [when for when, _ in updates]
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(times))
    assert len(updates) > 0.8 * (clock.now - start) / 0.11, "the bar must be updated whenever it is due"
    training = [shown for _, shown in updates if re.fullmatch(r"epoch \d/4", shown["description"])]
    assert any("loss 0.25" in shown["text"] and "val/loss 2" in shown["text"] for shown in training)
    seconds_left = [float(re.search(r"([\d.]+) s left", shown["text"])[1]) for shown in training]  # type: ignore[index]
    assert seconds_left[len(seconds_left) // 2] == pytest.approx((clock.now - start) / 2, rel=0.4), (
        "half way, half of the time remains"
    )
    assert seconds_left[-1] < seconds_left[len(seconds_left) // 2]
    assert any(shown["description"] == "testing" for _, shown in updates)
    text = screen.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor must be shown again"
    assert not re.search(r"epoch 1/4 .*s\n", text.replace("\r", "")), "no lines besides the bar"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_narrow_terminal_drops_metrics_before_the_epoch(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    screen = Terminal()
    monkeypatch.setattr("src.callbacks.progress.time", Clock())
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    run(Progress(), epochs=4, batches=100)
    frames = [
        re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", frame).rstrip() for frame in re.split(r"[\r\n]+", screen.getvalue())
    ]
    frames = [frame for frame in frames if re.search(r"\d/100", frame)]
    assert frames
    assert all(len(frame) <= width and "…" not in frame for frame in frames)
    assert any(re.match(r"epoch 2/4 \S+ \d+/100", frame) for frame in frames)
    assert any("val/accuracy" in frame for frame in frames) is (width == 120)


def test_a_step_reads_no_loss_between_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loss:
        def __float__(self) -> float:
            raise AssertionError("the loss was read off the device")

    progress = Progress()
    progress._bar = object()  # type: ignore[assignment]
    progress._last_drawn = float("inf")
    progress.on_train_batch_end(None, None, {"loss": Loss()}, None, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1:00 min"), (187, "3:07 min"), (3765, "1:02:45 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.51234, "0.5123"), (0.0, "0"), (float("nan"), "nan"), (None, "-"), (1e-9, "1e-09")]
)
def test_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_an_epoch_resumed_in_the_middle_is_timed_from_the_resume(capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning does not call `on_train_epoch_start` for it; starting at zero would report the uptime of the machine."""
    progress = Progress()
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    progress.on_train_start(trainer, Net())
    progress.on_train_epoch_end(trainer, Net())
    progress.on_train_end(trainer, Net())
    assert re.search(r"epoch 1/1 .*0\.0 s", capsys.readouterr().out)
