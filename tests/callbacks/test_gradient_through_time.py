"""Gradient by lag: it equals the textbook's product of Jacobians, and runs and sweeps plot it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from src.config.compose import compose
from src.config.validate import check
from src.core.batches import LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.diagnostics.gradient_through_time import gradient_by_lag
from src.models.recurrent import GRU, LSTM, RNN, Recurrent
from src.training.run import run

SPEC = DataSpec("forecasting", "sequence", (8, 3), (2, 2))
CELLS = ["torch", "textbook"]


def make_model(kind: type[Recurrent], cell: str) -> tuple[Recurrent, LabelledBatch]:
    torch.manual_seed(0)
    model = kind(SPEC, cell=cell, hidden_size=4).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    batch = LabelledBatch(torch.randn(3, 8, 3, dtype=torch.float64), torch.randn(3, 2, 2, dtype=torch.float64))
    return model, batch


@pytest.mark.req("R6")
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_a_vanilla_network_are_products_of_weights_and_tanh_derivatives(cell: str) -> None:
    """∂h_t/∂h_{t-k} = ∏ diag(1 - h²) W_hh, applied to ∂L_T/∂h_T."""
    model, batch = make_model(RNN, cell)
    core: Any = model.recurrent
    W = core.cells[0].W_h if cell == "textbook" else core.weight_hh_l0
    norms = torch.zeros(8, dtype=torch.float64)
    for n in range(3):
        h = model.read(batch.x[n : n + 1])[0][0]  # [T, H]
        residual = model.output(h[-1]) - batch.y[n].flatten()
        gradient = model.output.weight.T @ (2 * residual / 4)  # of the mean over 2 · 2 targets
        product = torch.eye(4, dtype=torch.float64)
        for lag in range(8):
            norms[lag] += (gradient @ product).norm() / 3
            t = 7 - lag
            product = product @ torch.diag(1 - h[t] ** 2) @ W
    torch.testing.assert_close(gradient_by_lag(model, batch), norms.detach(), rtol=0, atol=1e-12)


@pytest.mark.req("R6")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_gradients_are_products_of_the_jacobians_of_single_steps(kind: type[Recurrent], cell: str) -> None:
    """∂s_t/∂s_{t-k} = ∏ ∂s_{t-i+1}/∂s_{t-i}, with s = (h, C) for an LSTM."""
    model, batch = make_model(kind, cell)
    parts = 2 if kind is LSTM else 1
    norms = torch.zeros(8, dtype=torch.float64)
    for n in range(3):
        x = batch.x[n : n + 1]

        def step(s: Tensor, t: int, x: Tensor = x) -> Tensor:
            state = tuple(part.reshape(1, 1, 4) for part in s.chunk(parts))
            after = model.read(x[:, t : t + 1], state=state if parts == 2 else state[0])[1]
            return torch.cat([part.flatten() for part in (after if parts == 2 else (after,))])

        states = [torch.zeros(4 * parts, dtype=torch.float64)]
        for t in range(8):
            states.append(step(states[-1], t).detach())
        last = states[-1].clone().requires_grad_()
        loss = (model.output(last[:4]) - batch.y[n].flatten()).square().mean()
        gradient = torch.autograd.grad(loss, last)[0]
        for lag in range(8):
            norms[lag] += gradient.norm() / 3
            if lag < 7:
                gradient = gradient @ jacobian(lambda s, t=7 - lag: step(s, t), states[7 - lag])
    torch.testing.assert_close(gradient_by_lag(model, batch), norms.detach(), rtol=0, atol=1e-12)


@pytest.mark.req("R6")
def test_a_run_writes_a_plot_and_a_sweep_a_comparison(fast: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    (tmp_path / "sweeps" / "s").mkdir(parents=True)
    (tmp_path / "sweeps" / "s" / "ledger.jsonl").touch()
    for name in ("rnn", "gru"):
        config = check(compose(fast("experiment=gradient_through_time", f"model={name}", "sweep.name=s")))
        result = run(config, tmp_path / "sweeps" / "s" / name, verbose=False)
        assert (result.folder / "plots" / "gradient_through_time.png").stat().st_size > 10_000
    table = (tmp_path / "sweeps" / "s" / "gradient_through_time.md").read_text().splitlines()
    assert table[0] == "| run | training | lag 1 | lag 5 | lag 10 |"
    assert sorted(
        row.split(" | ")[:2] for row in table[2:]
    ) == [  # the order of runs that start within a second is undefined
        ["| gru", "after"],
        ["| gru", "before"],
        ["| rnn", "after"],
        ["| rnn", "before"],
    ]
    assert all(0 < float(cell) < 10 for row in table[2:] for cell in row.strip("| ").split(" | ")[2:])
    assert (tmp_path / "sweeps" / "s" / "plots" / "gradient_through_time.png").stat().st_size > 10_000
    assert "share of the last step" in capsys.readouterr().out


def test_other_models_are_rejected(fast: Callable[..., list[str]]) -> None:
    with pytest.raises(UserError, match="for model=rnn, lstm, gru"):
        run(fast("model=mlp", "callbacks=gradient_through_time"), verbose=False)
    with pytest.raises(UserError, match="for model=rnn, lstm, gru"):
        run(fast("model=rnn", "model.bidirectional=true", "callbacks=gradient_through_time"), verbose=False)
