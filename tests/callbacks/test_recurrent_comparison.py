"""Comparison of recurrent networks: its measurements, table and plot."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from src.callbacks import recurrent_comparison
from src.config.compose import compose
from src.config.groups import CONF
from src.config.validate import check
from src.core.batches import LabelledBatch
from src.core.data_spec import DataSpec
from src.diagnostics.resume_check import Interrupt
from src.diagnostics.saved_activations import saved_bytes
from src.models.recurrent import RNN
from src.run_store.plots import save_figure
from src.run_store.run_folder import RunFolder
from src.training.resume import prepare_resume
from src.training.run import Interrupted, resume, run


@pytest.mark.req("R7")
@pytest.mark.parametrize("steps", [20, 40])
def test_memory_is_that_of_the_saved_activations(steps: int) -> None:
    """A vanilla network saves h_t of every step; inputs and outputs are small in comparison."""
    batch, hidden = 16, 64
    model = RNN(DataSpec("regression", "sequence", (steps, 1), (1,)), cell="textbook", hidden_size=hidden)
    rng_state = torch.get_rng_state()
    num_bytes = saved_bytes(model, LabelledBatch(torch.randn(batch, steps, 1), torch.randn(batch, 1)))
    assert num_bytes == pytest.approx(4 * batch * hidden * steps, rel=0.15)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    torch.set_rng_state(rng_state)


@pytest.mark.req("R7")
def test_the_experiment_has_several_lags_and_a_real_series() -> None:
    overrides = ["experiment=recurrent_comparison"]
    params = yaml.safe_load((CONF / "experiment" / "recurrent_comparison.yaml").read_text())["hydra"]["sweeper"][
        "params"
    ]
    assert params["model"] == "rnn,lstm,gru"
    data = [compose([*overrides, f"datamodule={name}"]).datamodule for name in params["datamodule"].split(",")]
    assert [(entry.name, entry.get("lag")) for entry in data] == [
        ("adding_short", 10),
        ("adding", 50),
        ("adding_long", 100),
        ("ett", None),
    ]


@pytest.mark.req("R7")
def test_a_sweep_writes_a_table_and_a_plot(fast: Callable[..., list[str]], tmp_path: Path, capsys, monkeypatch) -> None:
    figures = []
    monkeypatch.setattr(
        recurrent_comparison, "save_figure", lambda *args: figures.append(args[2]) or save_figure(*args)
    )
    sweep = tmp_path / "sweeps" / "s"
    sweep.mkdir(parents=True)
    (sweep / "ledger.jsonl").touch()
    losses = {}
    for name, data in (
        ("4", "datamodule=adding"),
        ("series", "datamodule=mackey_glass"),
        ("2", "datamodule=adding_short"),
    ):
        overrides = fast("experiment=recurrent_comparison", "model=gru", "sweep.name=s", data)
        overrides += ["datamodule.lag=4"] if name == "4" else []
        result = run(check(compose(overrides)), sweep / name, verbose=False)
        losses[name] = result.metrics["test/loss"]
    table = (sweep / "recurrent_comparison.md").read_text().splitlines()
    rows = [dict(zip(table[0].split(" | "), row.split(" | "), strict=True)) for row in table[2:]]
    assert [row["| data"] for row in rows] == ["| adding, lag 2", "| adding, lag 4", "| mackey_glass"]
    assert [float(row["test loss"]) for row in rows] == pytest.approx(
        [losses[name] for name in ("2", "4", "series")], rel=1e-3
    )
    assert {row["parameters"] for row in rows[:2]} == {f"{3 * 64 * (2 + 64 + 2) + 65:,}"}
    lagged, series = figures[-1].axes
    assert (lagged.get_title(), series.get_title()) == ("adding", "mackey_glass")
    np.testing.assert_allclose(lagged.lines[0].get_xydata(), [(2, losses["2"]), (4, losses["4"])], rtol=1e-3)
    assert series.lines[0].get_xydata()[0, 1] == pytest.approx(losses["series"], rel=1e-3)
    assert series.lines[1].get_label() == "naive baseline"
    assert (sweep / "plots" / "recurrent_comparison.png").stat().st_size > 10_000
    assert "comparison of recurrent networks" in capsys.readouterr().out


@pytest.mark.req("R7")
def test_epoch_times_are_restored_after_an_interruption(fast: Callable[..., list[str]], tmp_path: Path) -> None:
    """Two complete epochs before it and one after are timed; the interrupted epoch is not."""
    overrides = [*fast("experiment=recurrent_comparison", "model=gru"), "trainer.max_epochs=4"]
    overrides = [*overrides, "regularization.early_stopping_patience=null", "trainer.limit_train_batches=3"]
    folder = tmp_path / "run"
    start = time.process_time()
    with pytest.raises(Interrupted):
        run(overrides, folder, verbose=False, callbacks=[Interrupt(7, signal.SIGINT)])
    resume(*prepare_resume(str(folder), []), verbose=False)
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (seconds,) = (state["seconds"] for name, state in checkpoint["callbacks"].items() if "RecurrentComparison" in name)
    assert len(seconds) == 3 and 0 < sum(seconds) < time.process_time() - start
    assert RunFolder.open(folder).record["recurrent_comparison"]["seconds"] == sorted(seconds)[1]
