"""The comparison's numbers against what they stand for, and its table and picture."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.batches import LabelledBatch
from src.config.check import check
from src.config.compose import compose
from src.experiment import run
from src.models.recurrent import RNN
from src.spec import DataSpec
from src.tracking.recurrent_comparison import bytes_kept


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
