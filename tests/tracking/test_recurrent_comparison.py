"""The comparison's numbers against what they stand for, and its table and picture."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.batches import LabelledBatch
from src.config.check import check
from src.config.compose import compose, resumed
from src.experiment import Interrupted, resume, run
from src.models.recurrent import RNN
from src.spec import DataSpec
from src.tracking.recurrent_comparison import bytes_kept
from src.tracking.resume_proof import Interrupt
from src.tracking.run_folder import RunFolder


@pytest.mark.req("R7")
@pytest.mark.parametrize("steps", [20, 40])
def test_memory_is_what_backpropagation_through_time_keeps(steps: int) -> None:
    """A vanilla network must keep h_t of every step; inputs and answers are small beside it."""
    batch, hidden = 16, 64
    model = RNN(DataSpec("regression", "sequence", (steps, 1), (1,)), cell="textbook", hidden_size=hidden)
    random = torch.get_rng_state()
    found = bytes_kept(model, LabelledBatch(torch.randn(batch, steps, 1), torch.randn(batch, 1)))
    assert found == pytest.approx(4 * batch * hidden * steps, rel=0.15)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    torch.set_rng_state(random)


@pytest.mark.req("R7")
def test_a_sweep_leaves_a_table_and_a_picture(fast: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    sweep = tmp_path / "sweeps" / "s"
    errors = {}
    for lag in (4, 2):
        words = fast("experiment=recurrent_comparison", "model=gru", "sweep.name=s")
        result = run(check(compose([*words, f"datamodule.lag={lag}"])), sweep / str(lag), verbose=False)
        errors[lag] = result.metrics["test/loss"]
    table = (sweep / "recurrent_comparison.md").read_text().splitlines()
    rows = [dict(zip(table[0].split(" | "), row.split(" | "), strict=True)) for row in table[2:]]
    assert [row["| data"] for row in rows] == ["| adding, lag 2", "| adding, lag 4"]
    assert [float(row["test loss"]) for row in rows] == pytest.approx([errors[2], errors[4]], rel=1e-3)
    assert {row["parameters"] for row in rows} == {f"{3 * 64 * (2 + 64 + 2) + 65:,}"}
    assert (sweep / "plots" / "recurrent_comparison.png").stat().st_size > 10_000
    assert "recurrent networks, measured" in capsys.readouterr().out


@pytest.mark.req("R7")
def test_the_time_of_an_epoch_outlives_an_interruption(fast: Callable[..., list[str]], tmp_path: Path) -> None:
    """Two whole epochs before it and one after count; the one that was interrupted has no time."""
    words = [*fast("experiment=recurrent_comparison", "model=gru"), "trainer.max_epochs=4"]
    words = [*words, "regularization.early_stopping_patience=null", "trainer.limit_train_batches=3"]
    folder = tmp_path / "run"
    began = time.process_time()
    with pytest.raises(Interrupted):
        run(words, folder, verbose=False, callbacks=[Interrupt(7, signal.SIGINT)])
    resume(*resumed(str(folder), []), verbose=False)
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (seconds,) = (state["seconds"] for name, state in checkpoint["callbacks"].items() if "RecurrentComparison" in name)
    assert len(seconds) == 3 and 0 < sum(seconds) < time.process_time() - began
    assert RunFolder.open(folder).record["recurrent_comparison"]["seconds"] == sorted(seconds)[1]
