"""Weight averaging: formulas in float64; validation, saving, testing and resuming; and invalid combinations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from src.callbacks.weight_averaging import ExponentialMovingAverage, StochasticWeightAveraging
from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.evaluate import evaluate
from src.optim.schedules import first_averaged_epoch
from src.run_store.run_folder import RunFolder
from src.training import experiment, inference
from src.training import run as run_module
from src.training.inference import load
from src.training.resume import prepare_resume
from src.training.run import Interrupted, resume, run

MakeOverrides = Callable[..., list[str]]
State = dict[str, Tensor]


class History(L.Callback):
    """Record the weights after every step, those of every validation, and the learning rates."""

    def __init__(self) -> None:
        self.steps: list[State] = []
        self.ends: list[State] = []
        self.validated: list[State] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        state = copy(pl_module)
        if trainer.global_step > len(self.steps):
            self.steps.append(state)
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.ends[trainer.current_epoch :] = [state]

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.validated[trainer.current_epoch :] = [copy(pl_module)]


def copy(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def recorded(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[History, run_module.RunResult]:
    """Run, and return the history of the weights and the result."""
    history, original = History(), experiment.build_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), history])
        return history, run(overrides, verbose=False)


def saved(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_close(actual: State, expected: State) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].double(), value.double(), rtol=1e-10, atol=1e-12)


EXACT = ("trainer.max_epochs=4", "trainer.limit_train_batches=4", "trainer.precision=64-true")


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_moving_average_equals_its_formula(fast: MakeOverrides, monkeypatch, decay: float) -> None:
    overrides = fast(*EXACT, f"regularization.ema_decay={decay}", "trainer.accumulate_grad_batches=2")
    history, result = recorded(overrides, monkeypatch)
    assert len(history.steps) == 8, "two batches per step"
    average = {name: value.double() for name, value in history.steps[0].items()}
    for number, weights in enumerate(history.steps[1:], start=2):
        d = min(decay, number / (9 + number))
        average = {name: d * value + (1 - d) * weights[name] for name, value in average.items()}
        if number % 2 == 0:
            assert_close(history.validated[number // 2 - 1], average)
    assert_close(saved(result.folder, "last")["state_dict"], average)
    assert_close(saved(result.folder, "last")["current_model_state"], history.steps[-1])


def test_the_stochastic_average_is_the_mean_over_the_last_epochs(fast: MakeOverrides, monkeypatch) -> None:
    history, result = recorded(fast(*EXACT, "regularization=swa", "regularization.swa_start=0.5"), monkeypatch)
    for epoch in (0, 1):
        assert_close(history.validated[epoch], history.ends[epoch])
    for epoch in (2, 3):
        mean = {name: sum(end[name] for end in history.ends[2 : epoch + 1]) / (epoch - 1) for name in history.ends[0]}
        assert_close(history.validated[epoch], mean)
    assert_close(saved(result.folder, "last")["state_dict"], history.validated[3])
    assert_close(saved(result.folder, "last")["current_model_state"], history.ends[3])


def test_batch_norm_statistics_are_recomputed_for_the_average(fast: MakeOverrides, monkeypatch) -> None:
    """The mean and variance of the first normalisation's input over the training batches, with averaged weights."""
    overrides = fast(
        *EXACT, "regularization=[swa,batch_norm]", "regularization.swa_start=0.5", "trainer.limit_train_batches=4"
    )
    history, result = recorded(overrides, monkeypatch)
    state = saved(result.folder, "last")["state_dict"]
    loaded = load(result.folder)
    loader = loaded.datamodule.loader("train", shuffle=True)
    loader.set_epoch(3)
    hidden = []
    for number, batch in enumerate(loader):
        if number < 4:
            hidden.append(batch.x.double().flatten(1) @ state["layers.1.weight"].T + state["layers.1.bias"])
    mean = torch.stack([part.mean(0) for part in hidden]).mean(0)
    variance = torch.stack([part.var(0) for part in hidden]).mean(0)
    torch.testing.assert_close(state["layers.2.running_mean"], mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state["layers.2.running_var"], variance, rtol=1e-9, atol=1e-9)
    in_training = saved(result.folder, "last")["current_model_state"]
    assert_close(in_training, history.ends[3])
    assert not torch.allclose(in_training["layers.2.running_mean"], mean, rtol=1e-3)


def test_batch_norm_statistics_are_computed_without_augmentation(fast: MakeOverrides) -> None:
    overrides = ("datamodule=audio_folder", "model=cnn", "regularization=[swa,batch_norm,audio_augmentation]")
    folder = run(fast(*overrides, "regularization.swa_start=0.0", "trainer.max_epochs=2"), verbose=False).folder
    loaded, state = load(folder), saved(folder, "last")["state_dict"]
    loaded.model.load_state_dict(state)
    loader = loaded.datamodule.loader("train", shuffle=True)
    loader.set_epoch(1)
    torch.optim.swa_utils.update_bn([batch.inputs[0] for batch in list(loader)[:2]], loaded.model)
    assert_close(copy(loaded.model), state)


AVERAGES = [
    ["regularization=ema", "regularization.ema_decay=0.8", "model=cnn"],
    [
        "regularization=[swa,batch_norm]",
        "regularization.swa_start=0.4",
        "regularization.swa_lr=0.02",
        "scheduler=cosine",
    ],
    ["regularization=ema", "model=lstm", "scheduler=plateau", "scheduler.patience=0"],
    ["regularization=[swa,dropout,mixup]", "regularization.swa_start=0.2", "model=cnn"],
]


@pytest.mark.parametrize(
    "overrides",
    [AVERAGES[1], *(pytest.param(w, marks=pytest.mark.slow) for w in (AVERAGES[0], *AVERAGES[2:]))],
    ids=str,
)
def test_the_validated_weights_are_saved_tested_and_evaluated(
    fast: MakeOverrides, overrides: list[str], monkeypatch
) -> None:
    history, result = recorded(fast(*overrides, "trainer.max_epochs=4", "trainer.limit_train_batches=3"), monkeypatch)
    record = json.loads((result.folder / "run.json").read_text())
    best = saved(result.folder, "best")["state_dict"]
    assert all(torch.equal(best[name], value) for name, value in history.validated[record["best_epoch"]].items())
    assert evaluate(result.folder) == {k: v for k, v in result.metrics.items() if k.startswith("test/")}
    assert evaluate(result.folder, "val")["val/loss"] == result.metrics["val/loss"]


def test_the_best_epoch_is_an_averaged_one(fast: MakeOverrides, monkeypatch) -> None:
    """The learning rate is far too high once averaging starts, so that the best weights are earlier ones."""
    overrides = ("regularization=swa", "regularization.swa_start=0.5", "regularization.swa_lr=3.0", "optimizer=sgd")
    history, result = recorded(fast(*overrides, *EXACT, "optimizer.lr=0.05"), monkeypatch)
    losses = [row["val/loss"] for row in RunFolder.open(result.folder).metrics() if "val/loss" in row]
    assert losses.index(min(losses)) == 1
    record = json.loads((result.folder / "run.json").read_text())
    best = 2 + losses[2:].index(min(losses[2:]))
    assert (record["best_since"], record["best_epoch"], result.value) == (2, best, losses[best])
    assert_close(saved(result.folder, "best")["state_dict"], history.validated[best])
    assert evaluate(result.folder)["test/loss"] == result.metrics["test/loss"]


def test_early_stopping_starts_again_with_the_average(fast: MakeOverrides) -> None:
    """The average is worse than the epochs before it; its first epoch must not stop the run."""
    overrides = ("regularization=[swa,early_stopping]", "regularization.swa_start=0.5", "regularization.swa_lr=3.0")
    sgd = ("optimizer=sgd", "optimizer.lr=0.05", "regularization.early_stopping_patience=1")
    folder = RunFolder.open(run(fast(*overrides, *EXACT, *sgd, "trainer.max_epochs=20"), verbose=False).folder)
    losses = [row["val/loss"] for row in folder.metrics() if "val/loss" in row]
    assert folder.record["best_since"] == 10
    assert losses[10] > losses[9], "this would have stopped the run"
    assert len(losses) == 20 or losses[-1] >= min(losses[10:-1])
    assert len(losses) > 11


class Stop(L.Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("overrides", "stop"),
    [
        (AVERAGES[0], 2),
        (AVERAGES[1], 1),
        *(pytest.param(overrides, 2, marks=pytest.mark.slow) for overrides in AVERAGES[2:]),
    ],
    ids=str,
)
def test_a_resumed_run_is_exact(
    fast: MakeOverrides, overrides: list[str], stop: int, monkeypatch, tmp_path: Path
) -> None:
    """Interrupt before averaging starts, in the epoch in which it starts, and after it."""
    overrides = fast(*overrides, "trainer.max_epochs=4", "trainer.limit_train_batches=3")
    whole = run(overrides, verbose=False)
    original, folder = experiment.build_callbacks, tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), Stop(stop)])
        run(overrides, folder, verbose=False)
    result = resume(*prepare_resume(str(folder), []), verbose=False)
    assert result.metrics == whole.metrics
    for name in ("best", "last"):
        expected, actual = saved(whole.folder, name), saved(folder, name)
        for key in ("state_dict", "current_model_state", "averaging_state"):
            assert all(torch.equal(value, actual[key][part]) for part, value in expected[key].items()), (name, key)
    curves = [[row["lr"] for row in RunFolder.open(path).metrics() if "lr" in row] for path in (whole.folder, folder)]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_a_run_with_more_epochs_continues_its_average(fast: MakeOverrides) -> None:
    """More epochs move the start of averaging beyond the existing average, which continues nevertheless."""
    overrides = fast("regularization=swa", "regularization.swa_start=0.5", "trainer.max_epochs=4")
    folder = run(overrides, verbose=False).folder
    assert saved(folder, "last")["averaging_state"]["n_averaged"] == 2
    resume(*prepare_resume(str(folder), ["trainer.max_epochs=8"]), verbose=False)
    assert saved(folder, "last")["averaging_state"]["n_averaged"] == 6


@pytest.mark.slow
def test_two_processes_have_the_same_average(command: Any, fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = ["trainer=ddp", "trainer.accelerator=cpu", "regularization=[swa,batch_norm]", "trainer.max_epochs=4"]
    overrides = fast(*overrides, "trainer.limit_val_batches=null", "trainer.limit_test_batches=null")
    done = command("src.train", *overrides)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/runs/*/*/run.json")
    record = json.loads(path.read_text())
    for split, shown in (("test", record["final"]), ("val", record["best"])):
        done = command("src.evaluate", str(path.parent), f"split={split}", "--json")
        accuracy = json.loads(done.stdout)[f"{split}/accuracy"]
        assert accuracy == pytest.approx(shown[f"{split}/accuracy"], abs=1e-6)


@pytest.mark.slow
def test_swa_lr_replaces_the_schedule(fast: MakeOverrides, monkeypatch) -> None:
    overrides = ("regularization=swa", "regularization.swa_start=0.5", "scheduler=cosine", "optimizer.lr=0.001")
    epochs = ("trainer.max_epochs=6", "trainer.limit_train_batches=2")
    rates = recorded(fast(*overrides, *epochs, "regularization.swa_lr=0.02"), monkeypatch)[0].rates
    plain = recorded(fast(*overrides, *epochs), monkeypatch)[0].rates
    assert rates[:6] == plain[:6] and rates[6:] == [0.02] * 6
    assert plain[6:] == sorted(plain[6:], reverse=True) and plain[-1] < 0.0002


def test_early_stopping_monitors_the_average(fast: MakeOverrides, monkeypatch) -> None:
    """At this learning rate the loss of the weights is noisy and would stop the run; that of the average always improves."""
    overrides = ["trainer.max_epochs=8", "trainer.limit_train_batches=4", "optimizer=sgd", "optimizer.lr=0.6"]
    overrides = fast(*overrides, "regularization.early_stopping_patience=1")
    history, result = recorded([*overrides, "regularization.ema_decay=0.98"], monkeypatch)
    shown = [row["val/loss"] for row in RunFolder.open(result.folder).metrics() if "val/loss" in row]
    assert shown == sorted(shown, reverse=True) and len(shown) == 8
    loaded = load(result.folder)
    losses = []
    for state in history.ends[:3]:
        loaded.model.load_state_dict(state)
        losses.append(inference.evaluate_split(loaded, "val")["val/loss"])
    assert losses[2] > losses[1], "the weights themselves would have stopped the run here"


def test_a_run_that_ends_before_averaging_logs_a_warning(fast: MakeOverrides, caplog: pytest.LogCaptureFixture) -> None:
    result = run(fast("regularization=swa", "trainer.max_epochs=8", "trainer.max_steps=3"), verbose=False)
    assert "before weights were averaged, from 0.75 of 8 epochs on" in caplog.text
    last = saved(result.folder, "last")
    assert all(torch.equal(value, last["current_model_state"][name]) for name, value in last["state_dict"].items())


@pytest.mark.parametrize(
    ("start", "epochs", "first"),
    [(0.5, 4, 2), (0.4, 4, 1), (0.29, 100, 29), (0.57, 100, 57), (0.0, 9, 0), (0.99, 9, 8)],
)
def test_averaging_starts_with_the_epoch_in_which_the_share_is_reached(start: float, epochs: int, first: int) -> None:
    assert first_averaged_epoch(start, epochs) == first


def test_disabled_averages_are_left_out(fast: MakeOverrides) -> None:
    assert ExponentialMovingAverage(0.0).off and StochasticWeightAveraging(None).off
    assert not ExponentialMovingAverage(0.9).off and not StochasticWeightAveraging(0.0).off
    result = run(fast(), verbose=False)
    assert "current_model_state" not in saved(result.folder, "last")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["regularization=[ema,swa]"], "one average at a time"),
        (["regularization.swa_lr=0.1"], "set regularization.swa_start too, such as 0.75"),
        (["regularization=ema", "callbacks=none"], "callbacks.ema averages weights and is left out; callbacks=default"),
        (["regularization=swa", "trainer=fsdp"], "trainer.strategy=fsdp shards them over the devices"),
        (
            ["regularization=ema", "trainer.precision=bf16-true"],
            "the weights of trainer.precision=bf16-true have three digits",
        ),
        (["regularization.ema_decay=1.0"], "ema_decay=1.0: must be less than 1"),
        (["regularization.swa_start=5"], "swa_start=5: must be"),
    ],
)
def test_invalid_combinations_are_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        check(compose(["model=mlp", *overrides]))
    assert message in str(raised.value)
