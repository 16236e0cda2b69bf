"""The fast loop gives the same run as Lightning's: every counter, weight, random number and record, bit for bit."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from src.compat.fast_loop import FastTrainingEpochLoop, lightning_step_reason
from src.config.compose import compose
from src.config.groups import CONF, groups
from src.config.validate import check
from src.diagnostics.resume_check import VOLATILE_KEYS, _leaves
from src.models.base import Model
from src.models.mlp import MLP
from src.training.experiment import build
from src.training.inference import load
from src.training.result import RunResult
from src.training.run import run

OPTIONS = groups([CONF])
STEP_OPTIONS = [
    f"{group}={name}" for group in ("model", "optimizer", "scheduler", "regularization") for name in OPTIONS[group]
]
FAST_CASES = [
    ["optimizer=adam"],
    ["scheduler=cosine", "scheduler.warmup_steps=2"],
    ["regularization=[gradient_clipping,ema]"],
]
SLOW_CASES = [
    ["trainer.accumulate_grad_batches=2"],
    ["trainer.accumulate_grad_batches=2", "scheduler=inverse_sqrt", "scheduler.warmup_steps=1"],
    ["trainer.max_steps=8"],
    ["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"],
    ["trainer.precision=64-true"],
    ["trainer.log_every_n_steps=1", "callbacks=gradients", "callbacks.gradients.every_n_steps=2"],
    ["callbacks.checkpoints.every_n_steps=2"],
    ["scheduler=plateau", "scheduler.patience=0", "regularization=gradient_value_clipping"],
    ["model=cnn", "regularization=[swa,batch_norm]"],
    ["model=gru", "datamodule=text", "datamodule.stateful=true"],
]


def results_of(result: RunResult) -> dict[str, Any]:
    """Return everything that a run writes, except times and paths."""
    record = json.loads((result.folder / "run.json").read_text())
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    states: dict[str, Any] = {}
    for name in ("last", "best"):
        state = torch.load(result.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        del state["gridlight"]["config"]["paths"], state["gridlight"]["config"]["trainer"]["loop"]
        states[name] = {
            key: json.loads(json.dumps(value).replace(str(result.folder), "")) if key == "callbacks" else value
            for key, value in state.items()
            if key != "callbacks" or _is_plain(value)
        }
    return states | {
        "metrics.jsonl": [{key: value for key, value in row.items() if key not in VOLATILE_KEYS} for row in rows],
        "run.json": {key: record[key] for key in ("status", "config_hash", "best_epoch", "value", "best", "final")},
    }


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def assert_same_results(overrides: list[str], folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Train with both loops, and compare the results."""
    caplog.set_level(logging.INFO)
    one = run([*overrides, "trainer.loop=auto"], folder / "auto", verbose=False)
    assert any("training loop: fast" in line for line in caplog.messages)
    other = run([*overrides, "trainer.loop=lightning"], folder / "lightning", verbose=False)
    leaves = list(_leaves(results_of(one), results_of(other)))
    assert len(leaves) > 100
    assert [path for path, equal in leaves if not equal] == []


@pytest.mark.parametrize("overrides", FAST_CASES, ids=lambda overrides: "+".join(overrides))
def test_fast_loop_equals_lightnings(fast: Callable[..., list[str]], tmp_path, caplog, overrides: list[str]) -> None:
    assert_same_results(fast(*overrides, "trainer.max_epochs=2", "trainer.limit_train_batches=3"), tmp_path, caplog)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [[choice] for choice in STEP_OPTIONS] + SLOW_CASES, ids=lambda overrides: "+".join(overrides)
)
def test_fast_loop_equals_lightnings_with_every_option(
    fast: Callable[..., list[str]], tmp_path, caplog, overrides: list[str]
) -> None:
    epochs = [
        override
        for override in ("trainer.max_epochs=2",)
        if not any("max_epochs" in override for override in overrides)
    ]
    assert_same_results(fast(*overrides, *epochs, "trainer.limit_train_batches=5"), tmp_path, caplog)


class OverridingModel(MLP):
    def on_after_backward(self) -> None:
        return None


@pytest.mark.parametrize(
    ("overrides", "model", "reason"),
    [
        ([], None, None),
        (["trainer.precision=64-true"], None, None),
        (["trainer.precision=bf16-mixed"], None, "trainer.precision=bf16-mixed"),
        (["trainer.profiler=simple"], None, "trainer.profiler"),
        ([], OverridingModel, "OverridingModel.on_after_backward"),
    ],
)
def test_reason_for_lightnings_step(
    fast: Callable[..., list[str]], overrides: list[str], model: type[MLP] | None, reason: str | None
) -> None:
    experiment = build(check(compose(fast(*overrides))))
    trainer = experiment.trainer
    assert isinstance(trainer.fit_loop.epoch_loop, FastTrainingEpochLoop)
    trainer.strategy._lightning_module = experiment.model if model is None else model(experiment.datamodule.spec)
    assert lightning_step_reason(trainer, Model) == reason


@pytest.mark.parametrize("loop", ["auto", "lightning"])
@pytest.mark.parametrize(
    ("overrides", "epoch"),
    [
        (["trainer.max_steps=3"], 0),  # below one epoch, early stopping included
        (["trainer.max_steps=7"], 1),
        (["trainer.max_steps=4", "trainer.accumulate_grad_batches=2"], 1),
        (["trainer.check_val_every_n_epoch=2"], 2),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_last_weights_are_validated(
    fast: Callable[..., list[str]], overrides: list[str], epoch: int, loop: str
) -> None:
    limits = ["trainer.max_epochs=3", "trainer.limit_train_batches=5", "trainer.limit_val_batches=1.0"]
    result = run(fast(*limits, *overrides, f"trainer.loop={loop}"), verbose=False)
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    validated = [row for row in rows if "val/loss" in row]
    assert len({row["step"] for row in validated}) == len(validated)  # once each
    assert validated[-1]["epoch"] == epoch
    loaded = load(result.folder / "checkpoints" / "last.ckpt")
    val = loaded.datamodule.split("val")
    loss = torch.nn.functional.cross_entropy(loaded.model.double()(val.x.double()), val.y)
    assert validated[-1]["val/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert result.value == min(row["val/loss"] for row in validated)


@pytest.mark.parametrize("loop", ["auto", "lightning"])
@pytest.mark.parametrize(
    "overrides", [["model=mlp", "optimizer=sgd"], ["model=transformer", "regularization=none"]], ids=" ".join
)
def test_accumulated_batches_are_one_large_batch(
    fast: Callable[..., list[str]], overrides: list[str], loop: str
) -> None:
    weights = []
    for batch, accumulated in ((48, 1), (12, 4)):
        sizes = [f"datamodule.batch_size={batch}", f"trainer.accumulate_grad_batches={accumulated}"]
        sizes += [f"trainer.limit_train_batches={2 * accumulated}", "trainer.precision=64-true", f"trainer.loop={loop}"]
        result = run(fast("datamodule=digits", *overrides, *sizes, "trainer.max_epochs=2"), verbose=False)
        state = torch.load(result.folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert state["global_step"] == 4
        weights.append(state["state_dict"])
    for name, whole in weights[0].items():
        torch.testing.assert_close(weights[1][name], whole, rtol=1e-9, atol=1e-12)


class HookRecorder(Callback):
    """Records which of its hooks were called, and the values that they saw and logged."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def _record(self, hook: str, trainer: L.Trainer, model: L.LightningModule, *values: Any) -> None:
        gradient = next(model.parameters()).grad
        state = trainer.global_step, trainer.current_epoch, None if gradient is None else float(gradient.sum())
        self.calls.append((hook, *state, *(float(value) for value in values)))

    def on_train_batch_start(self, trainer, model, batch, index) -> None:
        self._record("start", trainer, model, batch.x.sum(), index)

    def on_before_zero_grad(self, trainer, model, optimizer) -> None:
        self._record("zero_grad", trainer, model)

    def on_before_backward(self, trainer, model, loss) -> None:
        self._record("before_backward", trainer, model, loss)

    def on_after_backward(self, trainer, model) -> None:
        self._record("after_backward", trainer, model)

    def on_before_optimizer_step(self, trainer, model, optimizer) -> None:
        self._record("optimizer", trainer, model, optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, model, outputs, batch, index) -> None:
        self._record("end", trainer, model, outputs["loss"], batch.x.sum(), index)
        model.log("seen/index", float(index), on_step=True, on_epoch=True)

    def on_validation_batch_start(self, trainer, model, batch, index) -> None:
        self._record("val_start", trainer, model, index)

    def on_validation_batch_end(self, trainer, model, outputs, batch, index) -> None:
        self._record("val_end", trainer, model, index)
        model.log("seen/val", float(index))


def test_callback_sees_and_logs_the_same(fast: Callable[..., list[str]], tmp_path) -> None:
    overrides = fast("trainer.limit_train_batches=5", "trainer.max_epochs=2", "trainer.accumulate_grad_batches=2")
    overrides += ["trainer.log_every_n_steps=2"]
    calls, rows = [], []
    for loop in ("auto", "lightning"):
        recorder = HookRecorder()
        result = run([*overrides, f"trainer.loop={loop}"], tmp_path / loop, verbose=False, callbacks=[recorder])
        calls.append(recorder.calls)
        lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
        rows.append([{key: value for key, value in line.items() if key not in VOLATILE_KEYS} for line in lines])
    assert calls[0] == calls[1] and len(calls[0]) > 2 * (5 * 4 + 2 * 2)
    assert rows[0] == rows[1] and any("seen/index_step" in row for row in rows[0])
    assert any("seen/val" in row for row in rows[0])


class LogsItsLoss(MLP):
    """Model that logs in a part of a step."""

    def losses(self, outputs: Any, targets: Any, smoothing: float) -> Any:
        losses = super().losses(outputs, targets, smoothing)
        self.log("own/largest", losses.max(), on_step=True, on_epoch=True)
        return losses


def test_model_logs_the_same(fast: Callable[..., list[str]]) -> None:
    logged = []
    for loop in ("auto", "lightning"):
        experiment = build(check(compose(fast(f"trainer.loop={loop}", "trainer.limit_train_batches=5"))))
        experiment.model.__class__ = LogsItsLoss
        experiment.trainer.fit(experiment.model, datamodule=experiment.datamodule)
        logged.append({name: float(value) for name, value in experiment.trainer.callback_metrics.items()})
    assert logged[0] == logged[1]
    assert {"own/largest_step", "own/largest_epoch", "val/loss"} <= set(logged[0])
