"""Averaged weights: their formulas in float64, what is validated, saved, tested and resumed, and what excludes them."""

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
from src.training.resume import resumed
from src.training.run import Interrupted, resume, run

Words = Callable[..., list[str]]
State = dict[str, Tensor]


class History(L.Callback):
    """Keeps the weights after every step, those of every validation, and the learning rates."""

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


def recorded(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[History, run_module.RunResult]:
    """Run, and return what happened to the weights."""
    history, original = History(), experiment.build_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), history])
        return history, run(words, verbose=False)


def saved(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_close(found: State, expected: State) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value.double(), rtol=1e-10, atol=1e-12)


EXACT = ("trainer.max_epochs=4", "trainer.limit_train_batches=4", "trainer.precision=64-true")


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_moving_average_is_the_formula(fast: Words, monkeypatch, decay: float) -> None:
    words = fast(*EXACT, f"regularization.ema_decay={decay}", "trainer.accumulate_grad_batches=2")
    history, result = recorded(words, monkeypatch)
    assert len(history.steps) == 8, "two batches a step"
    average = {name: value.double() for name, value in history.steps[0].items()}
    for number, weights in enumerate(history.steps[1:], start=2):
        d = min(decay, number / (9 + number))
        average = {name: d * value + (1 - d) * weights[name] for name, value in average.items()}
        if number % 2 == 0:
            assert_close(history.validated[number // 2 - 1], average)
    assert_close(saved(result.folder, "last")["state_dict"], average)
    assert_close(saved(result.folder, "last")["current_model_state"], history.steps[-1])


def test_the_stochastic_average_is_the_mean_over_the_last_epochs(fast: Words, monkeypatch) -> None:
    history, result = recorded(fast(*EXACT, "regularization=swa", "regularization.swa_start=0.5"), monkeypatch)
    for epoch in (0, 1):
        assert_close(history.validated[epoch], history.ends[epoch])
    for epoch in (2, 3):
        mean = {name: sum(end[name] for end in history.ends[2 : epoch + 1]) / (epoch - 1) for name in history.ends[0]}
        assert_close(history.validated[epoch], mean)
    assert_close(saved(result.folder, "last")["state_dict"], history.validated[3])
    assert_close(saved(result.folder, "last")["current_model_state"], history.ends[3])


def test_the_average_has_batch_norm_statistics_of_its_own(fast: Words, monkeypatch) -> None:
    """The mean and variance of the first normalisation's input over the training batches, with averaged weights."""
    words = fast(
        *EXACT, "regularization=[swa,batch_norm]", "regularization.swa_start=0.5", "trainer.limit_train_batches=4"
    )
    history, result = recorded(words, monkeypatch)
    state = saved(result.folder, "last")["state_dict"]
    loaded = load(result.folder)
    loaded.datamodule.trainer = None
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


def test_the_statistics_are_those_of_examples_without_augmentation(fast: Words) -> None:
    words = ("datamodule=audio_folder", "model=cnn", "regularization=[swa,batch_norm,audio_augmentation]")
    folder = run(fast(*words, "regularization.swa_start=0.0", "trainer.max_epochs=2"), verbose=False).folder
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
    "words", [AVERAGES[1], *(pytest.param(w, marks=pytest.mark.slow) for w in (AVERAGES[0], *AVERAGES[2:]))], ids=str
)
def test_what_is_validated_is_saved_tested_and_evaluated(fast: Words, words: list[str], monkeypatch) -> None:
    history, result = recorded(fast(*words, "trainer.max_epochs=4", "trainer.limit_train_batches=3"), monkeypatch)
    record = json.loads((result.folder / "run.json").read_text())
    best = saved(result.folder, "best")["state_dict"]
    assert all(torch.equal(best[name], value) for name, value in history.validated[record["best_epoch"]].items())
    assert evaluate(result.folder) == {k: v for k, v in result.metrics.items() if k.startswith("test/")}
    assert evaluate(result.folder, "val")["val/loss"] == result.metrics["val/loss"]


def test_the_best_epoch_is_one_of_the_average(fast: Words, monkeypatch) -> None:
    """The rate is far too high from the start of the average on, so that the best weights come before it."""
    words = ("regularization=swa", "regularization.swa_start=0.5", "regularization.swa_lr=3.0", "optimizer=sgd")
    history, result = recorded(fast(*words, *EXACT, "optimizer.lr=0.05"), monkeypatch)
    losses = [row["val/loss"] for row in RunFolder.open(result.folder).metrics() if "val/loss" in row]
    assert losses.index(min(losses)) == 1
    record = json.loads((result.folder / "run.json").read_text())
    best = 2 + losses[2:].index(min(losses[2:]))
    assert (record["best_since"], record["best_epoch"], result.value) == (2, best, losses[best])
    assert_close(saved(result.folder, "best")["state_dict"], history.validated[best])
    assert evaluate(result.folder)["test/loss"] == result.metrics["test/loss"]


def test_early_stopping_waits_anew_for_the_average(fast: Words) -> None:
    """The average is worse than the epochs before it: the first of it is not one to lose patience over."""
    words = ("regularization=[swa,early_stopping]", "regularization.swa_start=0.5", "regularization.swa_lr=3.0")
    sgd = ("optimizer=sgd", "optimizer.lr=0.05", "regularization.early_stopping_patience=1")
    folder = RunFolder.open(run(fast(*words, *EXACT, *sgd, "trainer.max_epochs=20"), verbose=False).folder)
    losses = [row["val/loss"] for row in folder.metrics() if "val/loss" in row]
    assert folder.record["best_since"] == 10
    assert losses[10] > losses[9], "which would have ended the run"
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
    ("words", "stop"),
    [(AVERAGES[0], 2), (AVERAGES[1], 1), *(pytest.param(words, 2, marks=pytest.mark.slow) for words in AVERAGES[2:])],
    ids=str,
)
def test_resumed_is_uninterrupted(fast: Words, words: list[str], stop: int, monkeypatch, tmp_path: Path) -> None:
    """Stopped before the average begins, in the epoch in which it does, and after it."""
    words = fast(*words, "trainer.max_epochs=4", "trainer.limit_train_batches=3")
    whole = run(words, verbose=False)
    original, folder = experiment.build_callbacks, tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), Stop(stop)])
        run(words, folder, verbose=False)
    result = resume(*resumed(str(folder), []), verbose=False)
    assert result.metrics == whole.metrics
    for name in ("best", "last"):
        expected, found = saved(whole.folder, name), saved(folder, name)
        for key in ("state_dict", "current_model_state", "averaging_state"):
            assert all(torch.equal(value, found[key][part]) for part, value in expected[key].items()), (name, key)
    curves = [[row["lr"] for row in RunFolder.open(path).metrics() if "lr" in row] for path in (whole.folder, folder)]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_a_longer_run_keeps_its_average(fast: Words) -> None:
    """More epochs move the start behind the average that is there; it goes on, over every epoch since its own start."""
    words = fast("regularization=swa", "regularization.swa_start=0.5", "trainer.max_epochs=4")
    folder = run(words, verbose=False).folder
    assert saved(folder, "last")["averaging_state"]["n_averaged"] == 2
    resume(*resumed(str(folder), ["trainer.max_epochs=8"]), verbose=False)
    assert saved(folder, "last")["averaging_state"]["n_averaged"] == 6


@pytest.mark.slow
def test_two_processes_share_one_average(command: Any, fast: Words, tmp_path: Path) -> None:
    words = ["trainer=ddp", "trainer.accelerator=cpu", "regularization=[swa,batch_norm]", "trainer.max_epochs=4"]
    words = fast(*words, "trainer.limit_val_batches=null", "trainer.limit_test_batches=null")
    done = command("src.train", *words)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/runs/*/*/run.json")
    record = json.loads(path.read_text())
    for split, shown in (("test", record["final"]), ("val", record["best"])):
        command_line = command("src.evaluate", str(path.parent), f"split={split}", "--json")
        found = json.loads(command_line.stdout)[f"{split}/accuracy"]
        assert found == pytest.approx(shown[f"{split}/accuracy"], abs=1e-6)


@pytest.mark.slow
def test_a_learning_rate_of_its_own_ends_the_schedule(fast: Words, monkeypatch) -> None:
    words = ("regularization=swa", "regularization.swa_start=0.5", "scheduler=cosine", "optimizer.lr=0.001")
    epochs = ("trainer.max_epochs=6", "trainer.limit_train_batches=2")
    rates = recorded(fast(*words, *epochs, "regularization.swa_lr=0.02"), monkeypatch)[0].rates
    plain = recorded(fast(*words, *epochs), monkeypatch)[0].rates
    assert rates[:6] == plain[:6] and rates[6:] == [0.02] * 6
    assert plain[6:] == sorted(plain[6:], reverse=True) and plain[-1] < 0.0002


def test_early_stopping_watches_the_average(fast: Words, monkeypatch) -> None:
    """At this learning rate the weights jump about and would stop the run; their average gets better all the time."""
    words = ["trainer.max_epochs=8", "trainer.limit_train_batches=4", "optimizer=sgd", "optimizer.lr=0.6"]
    words = fast(*words, "regularization.early_stopping_patience=1")
    history, result = recorded([*words, "regularization.ema_decay=0.98"], monkeypatch)
    shown = [row["val/loss"] for row in RunFolder.open(result.folder).metrics() if "val/loss" in row]
    assert shown == sorted(shown, reverse=True) and len(shown) == 8
    loaded = load(result.folder)
    losses = []
    for state in history.ends[:3]:
        loaded.model.load_state_dict(state)
        losses.append(inference.measure(loaded, "val")["val/loss"])
    assert losses[2] > losses[1], "the weights themselves would have stopped the run here"


def test_a_run_that_ends_before_says_so(fast: Words, caplog: pytest.LogCaptureFixture) -> None:
    result = run(fast("regularization=swa", "trainer.max_epochs=8", "trainer.max_steps=3"), verbose=False)
    assert "before weights were averaged, from 0.75 of 8 epochs on" in caplog.text
    last = saved(result.folder, "last")
    assert all(torch.equal(value, last["current_model_state"][name]) for name, value in last["state_dict"].items())


@pytest.mark.parametrize(
    ("start", "epochs", "first"),
    [(0.5, 4, 2), (0.4, 4, 1), (0.29, 100, 29), (0.57, 100, 57), (0.0, 9, 0), (0.99, 9, 8)],
)
def test_it_begins_with_the_epoch_in_which_its_share_is_over(start: float, epochs: int, first: int) -> None:
    assert first_averaged_epoch(start, epochs) == first


def test_off_is_absent(fast: Words) -> None:
    assert ExponentialMovingAverage(0.0).off and StochasticWeightAveraging(None).off
    assert not ExponentialMovingAverage(0.9).off and not StochasticWeightAveraging(0.0).off
    result = run(fast(), verbose=False)
    assert "current_model_state" not in saved(result.folder, "last")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["regularization=[ema,swa]"], "one average at a time"),
        (["regularization.swa_lr=0.1"], "set regularization.swa_start, such as 0.75"),
        (["regularization=ema", "callbacks=none"], "callbacks.ema averages weights and is left out; callbacks=default"),
        (["regularization=swa", "trainer=fsdp"], "fsdp gives each device a part of them"),
        (["regularization=ema", "trainer.precision=bf16-true"], "lost in the weights of trainer.precision=bf16-true"),
        (["regularization.ema_decay=1.0"], "ema_decay=1.0: must be less than 1"),
        (["regularization.swa_start=5"], "swa_start=5: must be"),
    ],
)
def test_mistakes_are_told(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as refused:
        check(compose(["model=mlp", *words]))
    assert says in str(refused.value)
