"""A run that is stopped between two steps and resumed equals one that is not, bit for bit, in all that it leaves."""

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
from src.training.resume import resumed
from src.training.run import Interrupted, resume, run

Words = Callable[..., list[str]]

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
    "a learning rate of the average's own": [
        "regularization=swa",
        "regularization.swa_start=0.0",
        "regularization.swa_lr=0.02",
        "scheduler=cosine",
    ],
    "a state that is carried": [
        "model=lstm",
        "datamodule=text",
        "datamodule.carry_state=true",
    ],
}


def stopped(words: list[str], folder: Path, step: int) -> dict[str, Any]:
    """Press Ctrl-C after a step, and return the checkpoint that is left."""
    with pytest.raises(Interrupted):
        run(words, folder, verbose=False, callbacks=[Interrupt(step, signal.SIGINT)])
    assert RunFolder.open(folder).record["status"] == "interrupted"
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS.keys())
def test_stopped_between_steps(fast: Words, words: list[str], tmp_path: Path) -> None:
    words = [*fast(*words), *LENGTH]
    whole = run(words, tmp_path / "whole", verbose=False)
    for step in (2, 5):
        parts = tmp_path / f"stopped-{step}"
        state = stopped(words, parts, step)
        assert state["global_step"] in (step, step + 1)
        assert state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] not in (0, 7), "mid-epoch"
        resume(*resumed(str(parts), []), verbose=False)
        assert [finding for finding in compare(whole.folder, parts) if not finding.equal] == []


@pytest.mark.parametrize("lost", ["combined_loader", "partial_sums", "random_states"])
def test_the_comparison_would_notice(fast: Words, lost: str, tmp_path: Path) -> None:
    words = [*fast("regularization=dropout"), *LENGTH]
    whole = run(words, tmp_path / "whole", verbose=False)
    state = stopped(words, tmp_path / "parts", 3)
    if lost == "combined_loader":
        del state["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    elif lost == "partial_sums":
        state["random_states"][0]["partial_sums"] = [0.0, 0.0]
    else:
        state["random_states"][0]["torch"] = torch.Generator().manual_seed(5).get_state()
    torch.save(state, tmp_path / "parts" / "checkpoints" / "last.ckpt")
    resume(*resumed(str(tmp_path / "parts"), []), verbose=False)
    different = {finding.what for finding in compare(whole.folder, tmp_path / "parts") if not finding.equal}
    assert "lines of metrics.jsonl" in different
    assert ("weights of last.ckpt" in different) == (lost != "partial_sums")


def test_checkpoints_come_at_intervals(fast: Words, tmp_path: Path) -> None:
    class Seen(Callback):
        steps: list[int] = []

        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            file = tmp_path / "run" / "checkpoints" / "last.ckpt"
            if file.is_file():
                self.steps.append(torch.load(file, weights_only=True)["global_step"])

    words = [*fast("callbacks.checkpoints.every_n_steps=2"), *LENGTH, "trainer.max_epochs=1"]
    run(words, tmp_path / "run", verbose=False, callbacks=[Seen()])
    assert sorted(set(Seen.steps)) == [2, 4, 6]
    with pytest.raises(UserError, match="every_n_steps=0"):
        run(fast("callbacks.checkpoints.every_n_steps=0"), verbose=False)


def test_an_interval_is_no_other_experiment(fast: Words, tmp_path: Path) -> None:
    hashes = {
        RunFolder.create(tmp_path / word, check(compose(fast(word))).plain(), []).record["config_hash"]
        for word in ("callbacks.checkpoints.every_n_steps=2", "callbacks.checkpoints.every_minutes=null")
    }
    assert len(hashes) == 1


def test_twice_stops_at_once(fast: Words, tmp_path: Path) -> None:
    class Impatient(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # a shell starts what runs in its background with the signal ignored
    with pytest.raises(Interrupted):
        run([*fast(), *LENGTH], tmp_path / "run", verbose=False, callbacks=[Impatient()])
    assert not RunFolder.open(tmp_path / "run").has_checkpoint("last")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loader_goes_on_where_it_was() -> None:
    split = LabelledBatch(torch.arange(40.0), torch.arange(40))

    def loader(epoch: int) -> BatchLoader:
        made = BatchLoader(split, 4, shuffle=True, seed=1)
        made.set_epoch(epoch)
        return made

    first = loader(2)
    batches = [batch.y.tolist() for batch in first]
    state = first.state_dict()
    assert state == {"epoch": 2, "given": 10}
    again = loader(2)
    again.load_state_dict({"epoch": 2, "given": 3})
    assert [batch.y.tolist() for batch in again] == batches[3:]
    assert [batch.y.tolist() for batch in again] == batches, "only the first time"
    other = loader(3)
    other.load_state_dict(state)
    assert len(list(other)) == 10, "another epoch starts from its beginning"


@pytest.mark.slow
def test_doctor_proves_it(command: Any, fast: Words) -> None:
    words = [*fast("regularization=[dropout,mixup]", "scheduler=cosine"), *LENGTH]
    done = command("src.doctor", "resume", *words)
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


def test_a_carried_state_that_does_not_fit_is_refused(fast: Words, tmp_path: Path) -> None:
    words = [*fast(*RUNS["a state that is carried"]), *LENGTH]
    checkpoint = stopped(words, tmp_path / "run", 2)
    own = checkpoint["random_states"][0]
    for name, state in damaged_states(own["carried"]).items():
        folder = tmp_path / name
        shutil.copytree(tmp_path / "run", folder)
        (folder / "checkpoints" / "last.ckpt").unlink()
        torch.save(checkpoint | {"random_states": [own | {"carried": state}]}, folder / "checkpoints" / "last.ckpt")
        with pytest.raises(
            UserError, match=r"last\.ckpt: this checkpoint is damaged: the state that its model carries on"
        ):
            resume(*resumed(str(folder), []), verbose=False)
