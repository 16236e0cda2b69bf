"""Early stopping in a training run with a scripted monitor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.callbacks.early_stopping import EarlyStopping
from src.config.compose import compose
from src.config.validate import check
from src.run_store.run_folder import RunFolder
from src.training import experiment, inference
from src.training.callbacks import build_callbacks
from src.training.run import run

NAN = float("nan")


class Scripted(L.LightningModule):
    """Log the next value of a script after every epoch."""

    def __init__(self, script: list[float]) -> None:
        super().__init__()
        self.script = script
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/score", self.script[self.current_epoch])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def epochs(
    script: list[float], stopping: EarlyStopping, folder: Path | None = None, resume: bool = False, **more: Any
) -> int:
    """Return the number of epochs until training with that script ends."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=len(script),
        callbacks=[stopping, *([ModelCheckpoint(folder, "epoch", save_last=True)] if folder else [])],
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **more,
    )
    data = DataLoader(torch.ones(1, 1))  # type: ignore[arg-type]
    trainer.fit(Scripted(script), data, data, ckpt_path=folder / "last.ckpt" if folder and resume else None)
    return trainer.current_epoch


CASES = [
    ("min", 2, [5, 4, 4, 4, 1, 1], 4),
    ("max", 2, [1, 2, 2, 3, 3, 3, 9], 6),
    ("max", 1, [1, 0.5, 9], 2),
    ("min", 3, [5, 6, 6, 4, 6, 6, 6, 1], 7),
    ("min", None, [1, 2, 3, 4, 5, 6, 7, 8], 8),
]


@pytest.mark.req("G3")
@pytest.mark.parametrize(("mode", "patience", "script", "expected"), CASES)
def test_it_stops_after_patience(mode: Any, patience: int | None, script: list[float], expected: int) -> None:
    assert epochs([float(v) for v in script], EarlyStopping("val/score", mode, patience)) == expected


@pytest.mark.req("G3")
def test_a_change_below_min_delta_is_not_an_improvement() -> None:
    script = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75]
    assert epochs(script, EarlyStopping("val/score", "min", 2, min_delta=0.2)) == 3
    assert epochs(script, EarlyStopping("val/score", "min", 2)) == 6


@pytest.mark.req("G3")
@pytest.mark.parametrize("patience", [2, None])
def test_a_nan_monitor_fails_the_run(patience: int | None) -> None:
    with pytest.raises(FloatingPointError, match="val/score is nan after epoch 3"):
        epochs([3.0, 2.0, NAN, 1.0, 1.0], EarlyStopping("val/score", "min", patience))


def test_an_infinite_monitor_counts_as_no_improvement() -> None:
    assert epochs([float("inf"), 2.0, float("inf"), 1.0], EarlyStopping("val/score", "min", 2)) == 4


@pytest.mark.req("G3")
def test_a_resumed_run_continues_counting_with_the_patience_of_its_config(tmp_path: Path) -> None:
    script = [5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    assert epochs(script, EarlyStopping("val/score", "min", 2), tmp_path) == 3
    assert epochs(script, EarlyStopping("val/score", "min", 4), tmp_path, resume=True) == 5


@pytest.mark.req("G3")
def test_a_stopped_run_trains_further_only_with_more_epochs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = [5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    assert epochs(script[:4], EarlyStopping("val/score", "min", 2), tmp_path) == 3
    assert epochs(script[:4], EarlyStopping("val/score", "min", 2), tmp_path, resume=True) == 3
    assert "starts again" not in caplog.text
    assert epochs(script, EarlyStopping("val/score", "min", 2), tmp_path, resume=True) == 5
    assert "starts again" in caplog.text
    assert "had stopped early, after 2 epochs without a better val/score" in caplog.text


@pytest.mark.req("G3")
@pytest.mark.parametrize("interrupted", range(1, 6))
def test_an_interruption_does_not_change_the_patience_count(tmp_path: Path, interrupted: int) -> None:
    script = [5.0, 6.0, 4.0, 6.0, 6.0, 6.0, 6.0, 1.0]
    assert epochs(script[:interrupted], EarlyStopping("val/score", "min", 3), tmp_path) == interrupted
    assert epochs(script, EarlyStopping("val/score", "min", 3), tmp_path, resume=True) == 6


@pytest.mark.req("G3")
def test_the_best_weights_are_tested(fast: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch is the best: the weights at its end are tested, not the last ones."""
    ends: list[dict[str, Tensor]] = []

    class Ends(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            ends.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    original = experiment.build_callbacks
    monkeypatch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), Ends()])
    overrides = fast("optimizer=sgd", "optimizer.lr=0.6", "trainer.max_epochs=9", "trainer.limit_train_batches=4")
    result = run([*overrides, "regularization.early_stopping_patience=1"], verbose=False)
    losses = [row["val/loss"] for row in RunFolder.open(result.folder).metrics() if "val/loss" in row]
    assert len(ends) == len(losses) == 3 and losses[1] == min(losses) == result.value
    loaded = inference.load(result.folder)
    assert all(torch.equal(value, ends[1][name]) for name, value in loaded.model.state_dict().items())
    assert inference.evaluate_split(loaded, "test")["test/loss"] == result.metrics["test/loss"]
    loaded.model.load_state_dict(ends[2])
    assert inference.evaluate_split(loaded, "test")["test/loss"] != result.metrics["test/loss"]


def test_patience_and_min_delta_are_set_on_the_command_line(tmp_path: Path) -> None:
    overrides = ["regularization=early_stopping", "callbacks.early_stopping.min_delta=0.25", "monitor=val/accuracy"]
    config = check(compose(overrides))
    (stopping,) = [
        callback
        for callback in build_callbacks(config, RunFolder.create(tmp_path / "run", {}, []), "classification")
        if isinstance(callback, EarlyStopping)
    ]
    assert (stopping.patience, stopping.min_delta, stopping.monitor, stopping.mode) == (5, 0.25, "val/accuracy", "max")


@pytest.mark.req("G3")
def test_patience_counts_validations_not_epochs() -> None:
    script = [9.0, 5.0, 9.0, 6.0, 0.0, 6.0, 9.0, 9.0]  # validated after epochs 2, 4, 6: 5, 6, 6
    assert epochs(script, EarlyStopping("val/score", "min", 2), check_val_every_n_epoch=2) == 6
