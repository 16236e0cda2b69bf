"""Checkpoints: an interrupted and resumed run equals an uninterrupted one."""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.random_state import RandomState
from src.config.compose import compose
from src.config.validate import check
from src.core.batches import LabelledBatch
from src.core.errors import UserError
from src.core.random_state import random_state, restore_random_state
from src.datamodules.loaders.in_memory import BatchLoader
from src.diagnostics.resume_check import compare, resume_run, run_in_process, train_and_interrupt
from src.run_store.best_epoch import best_epoch
from src.run_store.run_folder import RunFolder
from src.training.checkpoint_io import AtomicCheckpointIO
from src.training.resume import prepare_resume
from src.training.run import resume, run

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(40, 1, generator=torch.Generator().manual_seed(1))


class Net(L.LightningModule):
    """Model with every kind of randomness and state: dropout, NumPy and Python noise, batch norm, Adam, a schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        noise = random.random() + float(np.random.rand())
        return (self.net(x) - y + 0.1 * noise).pow(2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", (self.net(batch[0]) - batch[1]).pow(2).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)]


class Stop(Callback):
    """Raise an error in the middle of an epoch, as if the process ended."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            raise ConnectionError("killed")


def loader(kind: str, shuffle: bool) -> Any:
    if kind == "gridlight":
        return BatchLoader(LabelledBatch(X, Y), 8, shuffle=shuffle, seed=3)
    return DataLoader(TensorDataset(X, Y), 8, shuffle=shuffle)


def fit(folder: Path, kind: str, seed: int, resume: bool = False, stop: int | None = None) -> L.Trainer:
    L.seed_everything(seed, verbose=False)
    callbacks: list[Callback] = [Checkpoints(folder, monitor="val/loss"), RandomState()]
    trainer = L.Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=callbacks + ([] if stop is None else [Stop(stop)]),
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    path = str(folder / "last.ckpt") if resume else None
    trainer.fit(Net(), loader(kind, True), loader(kind, False), ckpt_path=path, weights_only=True)
    return trainer


@pytest.mark.parametrize("kind", ["gridlight", "torch"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    whole = fit(tmp_path / "whole", kind, seed=0)
    draws = random.random(), float(np.random.rand()), float(torch.rand(()))
    with pytest.raises(ConnectionError):
        fit(tmp_path / "parts", kind, seed=0, stop=2)
    parts = fit(tmp_path / "parts", kind, seed=99, resume=True)

    expected, actual = whole.lightning_module.state_dict(), parts.lightning_module.state_dict()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    expected_adam, actual_adam = (t.optimizers[0].state_dict() for t in (whole, parts))
    assert expected_adam["param_groups"] == actual_adam["param_groups"]
    for index, moments in expected_adam["state"].items():
        assert all(torch.equal(moments[name], actual_adam["state"][index][name]) for name in moments)
    assert whole.lr_scheduler_configs[0].scheduler.state_dict() == parts.lr_scheduler_configs[0].scheduler.state_dict()
    assert whole.checkpoint_callback.best_epoch == parts.checkpoint_callback.best_epoch
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == draws


def test_without_the_random_state_a_resumed_run_differs(tmp_path: Path) -> None:
    """Otherwise the test above would not test anything random."""
    whole = fit(tmp_path / "whole", "gridlight", seed=0)
    with pytest.raises(ConnectionError):
        fit(tmp_path / "parts", "gridlight", seed=0, stop=2)
    path = tmp_path / "parts" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    del state["random_states"]
    torch.save(state, path)
    parts = fit(tmp_path / "parts", "gridlight", seed=99, resume=True)
    assert not torch.equal(
        whole.lightning_module.state_dict()["net.0.weight"], parts.lightning_module.state_dict()["net.0.weight"]
    )


class Scripted(L.LightningModule):
    """Log a given metric in every epoch; the weight counts the epochs."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", self.values[self.current_epoch])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def scripted(folder: Path, values: list[float], mode: str) -> Checkpoints:
    checkpoints = Checkpoints(folder, monitor="val/score", mode=mode)
    trainer = L.Trainer(
        max_epochs=len(values),
        accelerator="cpu",
        callbacks=[checkpoints],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Scripted(values), [torch.zeros(1)], [torch.zeros(1)])
    return checkpoints


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([3.0, 1.0, 2.0, 1.0], "min", 1),
        ([3.0, 1.0, 2.0, 4.0], "max", 3),
        ([float("nan"), 2.0, 3.0], "min", 1),
        ([float("nan"), float("nan")], "max", 0),
        ([1.0, float("nan")], "min", 0),
    ],
)
def test_checkpoints_are_of_the_best_and_last_epoch(tmp_path: Path, values: list[float], mode: str, best: int) -> None:
    checkpoints = scripted(tmp_path, values, mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    weights = {name: torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("best", "last")}
    assert checkpoints.best_epoch == best
    assert weights["best"]["state_dict"]["weight"] == best + 1
    assert weights["last"]["state_dict"]["weight"] == len(values)


def test_a_moved_run_finds_its_best_checkpoint(tmp_path: Path) -> None:
    scripted(tmp_path / "old", [3.0, 1.0, 2.0], "min")
    (tmp_path / "old").rename(tmp_path / "new")
    state = torch.load(tmp_path / "new" / "last.ckpt", weights_only=True)
    (callback_state,) = state["callbacks"].values()
    checkpoints = Checkpoints(tmp_path / "new", monitor="val/score")
    checkpoints.load_state_dict(callback_state)
    assert checkpoints.best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert float(checkpoints.best_model_score) == 1.0
    assert checkpoints.best_epoch == 1


def test_random_state_is_saved_as_plain_values(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    random.gauss(0, 1), np.random.standard_normal(1)  # both cache a second number for the next call
    torch.save(random_state(cpu), tmp_path / "state.pt")

    def draw() -> list[float]:
        return [random.gauss(0, 1), float(np.random.standard_normal()), float(np.random.rand()), float(torch.rand(()))]

    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True), cpu)
    assert draw() == expected


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    saved = {"epoch": 1, "pytorch-lightning_version": "2"}
    io.save_checkpoint(saved, path)
    with pytest.raises(UserError, match=r"last\.ckpt: this checkpoint is not written.* callbacks\.mine\.0: .*function"):
        io.save_checkpoint(saved | {"epoch": 2, "callbacks": {"mine": {"0": lambda: None}}}, path)
    assert io.load_checkpoint(path) == saved
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_errors_of_unreadable_checkpoints_name_the_file(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    with pytest.raises(UserError, match="missing"):
        io.load_checkpoint(tmp_path / "missing.ckpt")
    io.save_checkpoint({"weights": torch.zeros(1000), "pytorch-lightning_version": "2"}, tmp_path / "torn.ckpt")
    (tmp_path / "torn.ckpt").write_bytes((tmp_path / "torn.ckpt").read_bytes()[:700])
    with pytest.raises(UserError, match="torn"):
        io.load_checkpoint(tmp_path / "torn.ckpt")


class ExtensionCallback(Callback):
    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict["state"]


def test_the_state_of_an_extension_is_restored(fast: Callable[..., list[str]], tmp_path: Path) -> None:
    state = {
        "best": np.float64(0.5),
        "seen": np.arange(3),
        "key": b"\xff",
        "small": torch.ones(2).to(torch.float8_e5m2),
    }
    overrides = [*fast("model=mlp"), "trainer.max_epochs=2", "callbacks.checkpoints.min_interval=0"]
    run(overrides, tmp_path / "run", verbose=False, callbacks=[ExtensionCallback(state)])
    again = ExtensionCallback(state)
    resume(*prepare_resume(str(tmp_path / "run"), ["trainer.max_epochs=3"]), verbose=False, callbacks=[again])
    assert again.loaded["best"] == 0.5 and again.loaded["seen"].tolist() == [0, 1, 2] and again.loaded["key"] == b"\xff"
    assert again.loaded["small"].dtype == torch.float8_e5m2


@pytest.mark.parametrize("min_interval", [0, 60])
def test_state_of_an_extension_that_is_not_data_is_rejected_when_saving(
    fast: Callable[..., list[str]], tmp_path: Path, min_interval: int
) -> None:
    overrides = [*fast("model=mlp"), "trainer.max_epochs=2", f"callbacks.checkpoints.min_interval={min_interval}"]
    with pytest.raises(UserError, match=r"not written.* callbacks\.ExtensionCallback\.state\.0: .*path"):
        run(overrides, tmp_path / "run", verbose=False, callbacks=[ExtensionCallback([tmp_path])])


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


def test_loading_a_checkpoint_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="evil"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    assert "code ran" not in capsys.readouterr().out


# ---- short epochs ----------------------------------------------------------------------------------------------------


class Writes(Callback):
    """Count the files that are written, and optionally fail before an epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_before: int | None = None) -> None:
        self.count, self.fails_before = 0, fails_before
        write = AtomicCheckpointIO.save_checkpoint

        def counted(*arguments: Any, **more: Any) -> None:
            self.count += 1
            write(*arguments, **more)

        monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", counted)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.fails_before:
            raise RuntimeError("on purpose")


SHORT = ["trainer=cpu", "logger=none", "trainer.limit_train_batches=3", "trainer.max_epochs=8", "optimizer.lr=0.01"]


def test_deferred_writes_of_short_epochs_give_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, results = [], []
    for min_interval in (0, 1000):
        with monkeypatch.context() as context:
            counter = Writes(context)
            overrides = [*SHORT, f"callbacks.checkpoints.min_interval={min_interval}", "regularization=ema"]
            results.append(run(overrides, tmp_path / str(min_interval), verbose=False, callbacks=[counter]))
            writes.append(counter.count)
    assert writes[0] >= 8
    assert writes[1] <= 3  # the first epoch, the best in between, the last
    assert all(finding.equal for finding in compare(*(result.folder for result in results)))


def test_a_failed_run_saves_its_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        run(
            [*SHORT, "callbacks.checkpoints.min_interval=1000"],
            tmp_path / "run",
            verbose=False,
            callbacks=[Writes(monkeypatch, fails_before=5)],
        )
    folder = RunFolder.open(tmp_path / "run")
    best, last = (
        torch.load(path, weights_only=True)["epoch"] for path in (folder.checkpoint("best"), folder.checkpoint("last"))
    )
    assert best == best_epoch(folder.metrics(), "val/loss", "min")[0] > last == 0


@pytest.mark.slow
def test_a_run_that_is_killed_during_a_deferred_write_resumes_exactly(tmp_path: Path) -> None:
    config = check(compose([*SHORT, "callbacks.checkpoints.min_interval=1000", "scheduler=cosine"]))
    run_in_process(train_and_interrupt, config, tmp_path / "whole")
    run_in_process(train_and_interrupt, config, tmp_path / "parts", 17, signal.SIGKILL)
    assert torch.load(tmp_path / "parts" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    run_in_process(resume_run, tmp_path / "parts")
    findings = list(compare(tmp_path / "whole", tmp_path / "parts"))
    assert len(findings) == 16
    assert [finding.name for finding in findings if not finding.equal] == []
