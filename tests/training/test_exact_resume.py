"""Exact resume: a run that is interrupted between two steps and resumed equals an uninterrupted one bit for bit."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.config.compose import compose
from src.config.validate import check
from src.core.batches import LabelledBatch
from src.core.errors import UserError
from src.datamodules.loaders.in_memory import BatchLoader
from src.diagnostics.resume_check import Interrupt, compare
from src.run_store.run_folder import RunFolder
from src.training.resume import prepare_resume
from src.training.run import Interrupted, resume, run

MakeOverrides = Callable[..., list[str]]

LENGTH = ["trainer.max_epochs=3", "trainer.limit_train_batches=7"]
RUNS = {
    "dropout, mixup, cosine, accumulation": [
        "regularization=[dropout,mixup]",
        "scheduler=cosine",
        "trainer.accumulate_grad_batches=2",
    ],
    "augmentation, plateau, batch norm": [
        "model=cnn",
        "regularization=[augmentation,batch_norm]",
        "scheduler=plateau",
        "scheduler.patience=0",
    ],
    "recurrent, warm restarts, warm-up": [
        "model=lstm",
        "scheduler=cosine_restarts",
        "scheduler.T_0=1",
        "scheduler.warmup_steps=5",
    ],
    "learning rate of the weight average": [
        "regularization=swa",
        "regularization.swa_start=0.0",
        "regularization.swa_lr=0.02",
        "scheduler=cosine",
    ],
    "stateful recurrent network": [
        "model=lstm",
        "datamodule=text",
        "datamodule.stateful=true",
    ],
}


def interrupt_after(overrides: list[str], folder: Path, step: int) -> dict[str, Any]:
    """Interrupt a run after a step, and return its last checkpoint."""
    with pytest.raises(Interrupted):
        run(overrides, folder, verbose=False, callbacks=[Interrupt(step, signal.SIGINT)])
    assert RunFolder.open(folder).record["status"] == "interrupted"
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS.keys())
def test_a_run_interrupted_between_steps_resumes_exactly(
    fast: MakeOverrides, overrides: list[str], tmp_path: Path
) -> None:
    overrides = [*fast(*overrides), *LENGTH]
    whole = run(overrides, tmp_path / "whole", verbose=False)
    for step in (2, 5):
        parts = tmp_path / f"stopped-{step}"
        state = interrupt_after(overrides, parts, step)
        assert state["global_step"] in (step, step + 1)
        assert state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] not in (0, 7), "mid-epoch"
        resume(*prepare_resume(str(parts), []), verbose=False)
        assert [finding for finding in compare(whole.folder, parts) if not finding.equal] == []


@pytest.mark.parametrize("lost", ["combined_loader", "partial_sums", "random_states"])
def test_the_comparison_detects_lost_state(fast: MakeOverrides, lost: str, tmp_path: Path) -> None:
    overrides = [*fast("regularization=dropout"), *LENGTH]
    whole = run(overrides, tmp_path / "whole", verbose=False)
    state = interrupt_after(overrides, tmp_path / "parts", 3)
    if lost == "combined_loader":
        del state["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    elif lost == "partial_sums":
        state["random_states"][0]["partial_sums"] = [0.0, 0.0]
    else:
        state["random_states"][0]["torch"] = torch.Generator().manual_seed(5).get_state()
    torch.save(state, tmp_path / "parts" / "checkpoints" / "last.ckpt")
    resume(*prepare_resume(str(tmp_path / "parts"), []), verbose=False)
    different = {finding.name for finding in compare(whole.folder, tmp_path / "parts") if not finding.equal}
    assert "lines of metrics.jsonl" in different
    assert ("weights of last.ckpt" in different) == (lost != "partial_sums")


def test_checkpoints_are_written_at_intervals(fast: MakeOverrides, tmp_path: Path) -> None:
    class CheckpointSteps(Callback):
        steps: list[int] = []

        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            file = tmp_path / "run" / "checkpoints" / "last.ckpt"
            if file.is_file():
                self.steps.append(torch.load(file, weights_only=True)["global_step"])

    overrides = [*fast("callbacks.checkpoints.every_n_steps=2"), *LENGTH, "trainer.max_epochs=1"]
    run(overrides, tmp_path / "run", verbose=False, callbacks=[CheckpointSteps()])
    assert sorted(set(CheckpointSteps.steps)) == [2, 4, 6]
    with pytest.raises(UserError, match="every_n_steps=0"):
        run(fast("callbacks.checkpoints.every_n_steps=0"), verbose=False)


def test_checkpoint_intervals_do_not_change_the_config_hash(fast: MakeOverrides, tmp_path: Path) -> None:
    hashes = {
        RunFolder.create(tmp_path / override, check(compose(fast(override))).plain(), []).record["config_hash"]
        for override in ("callbacks.checkpoints.every_n_steps=2", "callbacks.checkpoints.every_minutes=null")
    }
    assert len(hashes) == 1


def test_a_second_interrupt_stops_the_run_immediately(fast: MakeOverrides, tmp_path: Path) -> None:
    class InterruptTwice(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)  # ignored in background jobs of a shell
    with pytest.raises(Interrupted):
        run([*fast(), *LENGTH], tmp_path / "run", verbose=False, callbacks=[InterruptTwice()])
    assert not RunFolder.open(tmp_path / "run").has_checkpoint("last")
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_loader_continues_at_its_saved_position() -> None:
    split = LabelledBatch(torch.arange(40.0), torch.arange(40))

    def loader(epoch: int) -> BatchLoader:
        batches = BatchLoader(split, 4, shuffle=True, seed=1)
        batches.set_epoch(epoch)
        return batches

    first = loader(2)
    batches = [batch.y.tolist() for batch in first]
    state = first.state_dict()
    assert state == {"epoch": 2, "given": 10}
    again = loader(2)
    again.load_state_dict({"epoch": 2, "given": 3})
    assert [batch.y.tolist() for batch in again] == batches[3:]
    assert [batch.y.tolist() for batch in again] == batches, "the position applies only once"
    other = loader(3)
    other.load_state_dict(state)
    assert len(list(other)) == 10, "another epoch starts at its beginning"


@pytest.mark.slow
def test_doctor_checks_exact_resume(command: Any, fast: MakeOverrides) -> None:
    overrides = [*fast("regularization=[dropout,mixup]", "scheduler=cosine"), *LENGTH]
    done = command("src.doctor", "resume", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL after step" in done.stdout and "resumed exactly" in done.stdout
    wrong = command("src.doctor", "resume", "optimizer.lrr=1")
    assert wrong.returncode == 2 and "'lr'" in wrong.stderr


def damaged_states(carried: tuple[Tensor, ...]) -> dict[str, Any]:
    return {
        "fewer rows": tuple(part[:, :3] for part in carried),
        "more layers": tuple(part.repeat(2, 1, 1) for part in carried),
        "another width": tuple(part[..., :3] for part in carried),
        "another type": tuple(part.double() for part in carried),
        "no cell state": carried[0],
        "a text": "x",
    }


def test_a_recurrent_state_of_a_wrong_shape_is_rejected(fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = [*fast(*RUNS["stateful recurrent network"]), *LENGTH]
    checkpoint = interrupt_after(overrides, tmp_path / "run", 2)
    process_state = checkpoint["random_states"][0]
    for name, state in damaged_states(process_state["carried"]).items():
        folder = tmp_path / name
        shutil.copytree(tmp_path / "run", folder)
        (folder / "checkpoints" / "last.ckpt").unlink()
        torch.save(
            checkpoint | {"random_states": [process_state | {"carried": state}]}, folder / "checkpoints" / "last.ckpt"
        )
        with pytest.raises(UserError, match=r"last\.ckpt: this checkpoint is damaged: the carried state of its model"):
            resume(*prepare_resume(str(folder), []), verbose=False)
