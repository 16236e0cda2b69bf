"""The model summary against manual counts."""

import io
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.batches import LabelledBatch
from src.core.data_spec import DataSpec
from src.core.tables import show
from src.models.recurrent import GRU, LSTM, RNN, Recurrent
from src.models.summary import summarize


class Attention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, is_causal=self.causal)


def recurrent_multiply_adds(
    gates: int, inputs: int, hidden: int, steps: int, layers: int = 1, directions: int = 1
) -> int:
    """Return the multiply-adds of W·[x, h] for each gate, step, layer and direction."""
    first = gates * hidden * (inputs + hidden)
    above = gates * hidden * (directions * hidden + hidden)
    return steps * directions * (first + (layers - 1) * above)


B = 3  # the count is for one example, whatever the batch
CASES: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "linear": (nn.Linear(5, 6), (5,), 30),
    "linear over time": (nn.Linear(5, 6), (7, 5), 7 * 30),
    "conv2d": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 8, 8), 4 * 4 * 4 * 3 * 9),
    "grouped conv2d": (nn.Conv2d(4, 8, 3, groups=2), (4, 5, 5), 8 * 9 * 2 * 9),
    "conv1d": (nn.Conv1d(3, 4, 3), (3, 9), 4 * 7 * 3 * 3),
    "rnn": (nn.RNN(5, 6, batch_first=True), (7, 5), recurrent_multiply_adds(1, 5, 6, 7)),
    "lstm": (nn.LSTM(5, 6, 2, batch_first=True), (7, 5), recurrent_multiply_adds(4, 5, 6, 7, layers=2)),
    "bidirectional gru": (
        nn.GRU(5, 6, 2, batch_first=True, bidirectional=True),
        (7, 5),
        recurrent_multiply_adds(3, 5, 6, 7, layers=2, directions=2),
    ),
    "attention": (Attention(causal=False), (2, 7, 8), 2 * 2 * 7 * 7 * 8),
    "causal attention": (Attention(causal=True), (2, 7, 8), 2 * 2 * 7 * 7 * 8),
    "transformer layer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (7, 8),
        4 * 7 * 8 * 8 + 2 * 7 * 7 * 8 + 2 * 7 * 8 * 16,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_multiply_adds(name: str) -> None:
    module, shape, expected = CASES[name]
    summary = summarize(module, LabelledBatch(torch.randn(B, *shape), torch.zeros(B)))
    assert summary.multiply_adds == expected
    assert summary.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.req("M5")
def test_the_textbook_network_layer_by_layer() -> None:
    """3072-128-128-10 has 411,146 parameters (textbook, Multi-Layer Perceptrons)."""
    model = nn.Sequential(nn.Linear(3072, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10))
    summary = summarize(model, LabelledBatch(torch.randn(2, 3072), torch.zeros(2)))
    assert summary.parameters == summary.trainable == 411_146
    assert summary.multiply_adds == 3072 * 128 + 128 * 128 + 128 * 10
    assert [(row.name, row.type, row.output_shape, row.parameters, row.multiply_adds) for row in summary.rows[1:]] == [
        ("0", "Linear", (1, 128), 3072 * 128 + 128, 3072 * 128),
        ("1", "Tanh", (1, 128), 0, 0),
        ("2", "Linear", (1, 128), 128 * 128 + 128, 128 * 128),
        ("3", "Tanh", (1, 128), 0, 0),
        ("4", "Linear", (1, 10), 1290, 1280),
    ]


class Tied(nn.Module):
    """A layer that is used twice, one that is not used, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4, bias=False)
        self.again = self.shared
        self.unused = nn.Linear(4, 1)
        self.frozen = nn.Linear(4, 2).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.shared(self.again(x)))


def test_shared_unused_and_frozen_layers() -> None:
    summary = summarize(Tied(), LabelledBatch(torch.randn(2, 4), torch.zeros(2)))
    rows = {row.name: row for row in summary.rows}
    assert rows["shared"].multiply_adds == 2 * 16 and rows["shared"].parameters == 16
    assert rows["unused"].multiply_adds is None and rows["unused"].output_shape is None
    assert summary.parameters == 16 + 5 + 10 and summary.trainable == 16 + 5
    assert "10 frozen" in summary.headline()


@pytest.mark.req("R2")
@pytest.mark.parametrize("cell", ["torch", "textbook"])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_learned_initial_state_adds_parameters_and_no_multiply_adds(kind: type[Recurrent], cell: str) -> None:
    spec, batch = DataSpec("regression", "sequence", (9, 3), (1,)), LabelledBatch(torch.randn(2, 9, 3), torch.zeros(2))
    zero, learned = (
        summarize(kind(spec, cell=cell, hidden_size=6, num_layers=2, initial_state=start), batch)
        for start in ("zero", "learned")
    )
    states = 2 if kind is LSTM else 1
    assert learned.trainable - zero.trainable == states * 2 * 6
    assert learned.multiply_adds == zero.multiply_adds > 0


def test_summarize_does_not_change_the_model_or_random_state() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def draws() -> list[Any]:
        return [float(torch.rand(())), float(np.random.rand()), random.random()]

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draws()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    summarize(model, LabelledBatch(torch.randn(2, 4, generator=torch.Generator()), torch.zeros(2)))
    assert draws() == expected
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.backends.mkldnn.enabled and torch.backends.mha.get_fastpath_enabled()


def test_table_is_limited_to_twenty_rows(capsys: pytest.CaptureFixture[str]) -> None:
    deep = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh())) for _ in range(40)))
    summary = summarize(deep, LabelledBatch(torch.randn(2, 4), torch.zeros(2)))
    show(summary.table())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1 + 19 + 1
    assert lines[0] == "Sequential: 800 parameters, 640 multiply-adds an example"
    assert f"{160 - 19} more layers" in lines[-1]
    assert not any("0.1.0" in line for line in lines), "the third level"
    assert all(ord(character) < 0x2500 for line in lines for character in line), "no drawn lines in a log"


def test_terminal_table_has_drawn_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    summary = summarize(nn.Sequential(nn.Linear(4, 2)), LabelledBatch(torch.randn(2, 4), torch.zeros(2)))
    Console(file=screen).print(summary.table())
    assert "─" in screen.getvalue() and "1×2" in screen.getvalue()
