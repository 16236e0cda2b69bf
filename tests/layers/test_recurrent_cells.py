"""The textbook's cells against its equations, gate by gate, and against torch's kernels where the equations are the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.layers.recurrent_cells import Cell, GRUCell, LSTMCell, RecurrentLayers, RNNCell

F, H = 3, 5
TORCH_CLASSES: dict[type[Cell], Any] = {RNNCell: nn.RNN, LSTMCell: nn.LSTM, GRUCell: nn.GRU}
TORCH_GATE_ORDER: dict[type[Cell], tuple[str, ...]] = {
    RNNCell: ("h",),
    LSTMCell: ("i", "f", "C", "o"),
    GRUCell: ("r", "z", "h"),
}
"""The gates as torch stacks them."""


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_layers(cell: type[Cell], num_layers: int = 1, bidirectional: bool = False, inputs: int = F) -> RecurrentLayers:
    torch.manual_seed(0)
    layers = RecurrentLayers(cell, inputs, H, num_layers, bidirectional).double()
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.7)
    return layers


def gate_parameters(cell: Cell) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return W, which the textbook multiplies with [h_{t-1}, x_t], and b of every gate."""
    W = torch.cat((cell.W_h, cell.W_x), 1).split(H)
    return dict(zip(cell.gates, W, strict=True)), dict(zip(cell.gates, cell.b.split(H), strict=True))


def rnn_equations(W: dict, b: dict, x: Tensor, h: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tanh(W["h"] @ torch.cat((h, x)) + b["h"]), C


def lstm_equations(W: dict, b: dict, x: Tensor, h: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    f = torch.sigmoid(W["f"] @ torch.cat((h, x)) + b["f"])
    i = torch.sigmoid(W["i"] @ torch.cat((h, x)) + b["i"])
    candidate = torch.tanh(W["C"] @ torch.cat((h, x)) + b["C"])
    C = f * C + i * candidate
    o = torch.sigmoid(W["o"] @ torch.cat((h, x)) + b["o"])
    return o * torch.tanh(C), C


def gru_equations(W: dict, b: dict, x: Tensor, h: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    r = torch.sigmoid(W["r"] @ torch.cat((h, x)) + b["r"])
    z = torch.sigmoid(W["z"] @ torch.cat((h, x)) + b["z"])
    candidate = torch.tanh(W["h"] @ torch.cat((r * h, x)) + b["h"])
    return (1 - z) * h + z * candidate, C


EQUATIONS: dict[type[Cell], Callable] = {RNNCell: rnn_equations, LSTMCell: lstm_equations, GRUCell: gru_equations}


def textbook_states(cell: Any, x: Tensor, h: Tensor, C: Tensor) -> Tensor:
    """Return h_t of every step of one sequence [T, F]."""
    states, (W, b) = [], gate_parameters(cell)
    for step in x:
        h, C = EQUATIONS[type(cell)](W, b, step, h, C)
        states.append(h)
    return torch.stack(states)


@pytest.mark.req("R1")
@pytest.mark.parametrize("cell", EQUATIONS)
def test_states_and_gradients_follow_the_textbook(cell: type[Cell]) -> None:
    layers, x, h, C = make_layers(cell), numbers(2, 7, F), numbers(2, H, seed=2), numbers(2, H, seed=3)
    tensors = [x, h, *([C] if cell is LSTMCell else []), *layers.parameters()]
    for tensor in tensors[: -len(list(layers.parameters()))]:
        tensor.requires_grad_()
    start = (h.unsqueeze(0), C.unsqueeze(0)) if cell is LSTMCell else h.unsqueeze(0)
    outputs = layers(x, start)[0]
    expected = torch.stack([textbook_states(layers.cells[0], x[n], h[n], C[n]) for n in range(2)])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    weights = numbers(2, 7, H, seed=4)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), tensors) for out in (outputs, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def copy_to_torch(
    layers: RecurrentLayers, kernel: Any, transform: Callable[[str, Tensor], Tensor] = lambda gate, W: W
) -> Any:
    """Copy the weights of the textbook's cells to torch's kernel, gate by gate; its second bias is zero."""
    theirs = kernel.double()
    suffixes = [f"_l{n}{end}" for n in range(layers.num_layers) for end in ("", "_reverse")[: layers.directions]]
    with torch.no_grad():
        for cell, suffix in zip(layers.cells, suffixes, strict=True):
            for ours, name in (("W_x", "weight_ih"), ("W_h", "weight_hh"), ("b", "bias_ih")):
                parts = dict(zip(cell.gates, getattr(cell, ours).split(H), strict=True))  # type: ignore[arg-type, union-attr, operator]
                stacked = torch.cat([transform(gate, parts[gate]) for gate in TORCH_GATE_ORDER[type(cell)]])  # type: ignore[index]
                getattr(theirs, name + suffix).copy_(stacked)
            getattr(theirs, "bias_hh" + suffix).zero_()
    return theirs


def weighted_sum(outputs: Tensor, last: Any) -> Tensor:
    """Return a number that depends on every output and on the last states, which skip the padded steps."""
    parts = (outputs, *(last if isinstance(last, tuple) else (last,)))
    return torch.stack([(part * numbers(*part.shape, seed=5 + n)).sum() for n, part in enumerate(parts)]).sum()


@pytest.mark.req("R1", "R2")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", [RNNCell, LSTMCell])
def test_rnn_and_lstm_equal_torch(cell: type[Cell], num_layers: int, bidirectional: bool) -> None:
    """Compare outputs, last states and gradients of sequences of different lengths, with a nonzero initial state."""
    layers = make_layers(cell, num_layers, bidirectional)
    theirs = copy_to_torch(layers, TORCH_CLASSES[cell](F, H, num_layers, batch_first=True, bidirectional=bidirectional))
    x, lengths = numbers(4, 9, F).requires_grad_(), torch.tensor([9, 4, 1, 7])
    states = [
        numbers(num_layers * layers.directions, 4, H, seed=2 + n).requires_grad_() for n in range(cell.num_states)
    ]
    start: Any = tuple(states) if cell is LSTMCell else states[0]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, last = theirs(packed, start)
    expected = nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)[0]
    outputs, ours_last = layers(x, start, lengths)
    torch.testing.assert_close((outputs, ours_last), (expected, last), rtol=0, atol=1e-12)
    ours, torchs = (
        torch.autograd.grad(weighted_sum(outputs, end), [x, *states, weight])
        for outputs, end, weight in (
            (outputs, ours_last, layers.cells[0].W_h),
            (expected, last, theirs.weight_hh_l0),
        )
    )
    torch.testing.assert_close(ours[:-1], torchs[:-1], rtol=0, atol=1e-11)
    rows = [TORCH_GATE_ORDER[cell].index(gate) for gate in layers.cells[0].gates]  # type: ignore[union-attr]
    stacked = torch.cat([torchs[-1].split(H)[row] for row in rows])
    torch.testing.assert_close(ours[-1], stacked, rtol=0, atol=1e-11)


def negate_z(gate: str, W: Tensor) -> Tensor:
    """Negate the weights of z: σ(-a) = 1 - σ(a) is the same gate as the weight of h_{t-1}."""
    return -W if gate == "z" else W


@pytest.mark.req("R1")
def test_gru_equals_torch_if_the_reset_gate_commutes_with_the_product() -> None:
    """E7: with a diagonal W_h of the candidate, W (r ⊙ h) = r ⊙ (W h), and only z must be negated."""
    layers, x = make_layers(GRUCell), numbers(4, 9, F)
    candidate = layers.cells[0].W_h.data[2 * H :]  # type: ignore[union-attr, index]
    candidate.copy_(candidate.diag().diag())
    theirs = copy_to_torch(layers, nn.GRU(F, H, batch_first=True), negate_z)
    torch.testing.assert_close(layers(x)[0], theirs(x)[0], rtol=0, atol=1e-12)
    not_negated = copy_to_torch(layers, nn.GRU(F, H, batch_first=True))
    assert (layers(x)[0] - not_negated(x)[0]).abs().max() > 0.1


@pytest.mark.req("R1")
def test_gru_differs_from_torch_otherwise() -> None:
    """E7: starting from a zero state, the first step is equal, because the reset gate has no effect, and later steps differ."""
    layers, x = make_layers(GRUCell), numbers(4, 9, F)
    theirs = copy_to_torch(layers, nn.GRU(F, H, batch_first=True), negate_z)
    ours, others = layers(x)[0], theirs(x)[0]
    torch.testing.assert_close(ours[:, 0], others[:, 0], rtol=0, atol=1e-12)
    assert ((ours - others)[:, 1:].abs().amax((0, 2)) > 0.01).all()


@pytest.mark.parametrize("cell", EQUATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_mixed_precision_is_close_to_full_precision(cell: type[Cell], dtype: torch.dtype) -> None:
    layers = make_layers(cell, 2, True).float()
    x, lengths = numbers(4, 9, F).float(), torch.tensor([9, 4, 1, 7])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        outputs = layers(x, None, lengths)[0]
    assert outputs.dtype is dtype
    torch.testing.assert_close(outputs.float(), layers(x, None, lengths)[0], rtol=0, atol=0.1)
    outputs.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layers.parameters())


def test_half_precision_keeps_the_digits_of_small_states() -> None:
    """If tanh(a) is small, 2σ(2a) - 1 in bfloat16 loses its digits."""
    layers, x = make_layers(LSTMCell), numbers(4, 9, F) / 100
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.1)
    nn.init.zeros_(layers.cells[0].b)  # type: ignore[arg-type]
    exact = layers(x)[0]
    outputs = layers.bfloat16()(x.bfloat16())[0]
    assert (outputs - exact).abs().mean() < 0.02 * exact.abs().mean()


@pytest.mark.req("R2")
@pytest.mark.parametrize("cell", EQUATIONS)
def test_dropout_is_between_layers_and_not_above_the_top_one(cell: type[Cell]) -> None:
    layers, x = make_layers(cell, 2), numbers(4, 9, F)
    layers.dropout.p = 0.5
    assert (layers(x)[0] != 0).all()
    assert not torch.equal(layers(x)[0], layers(x)[0])
    assert torch.equal(layers.eval()(x)[0], layers(x)[0])


@pytest.mark.req("R1")
@pytest.mark.parametrize("cell", EQUATIONS)
def test_initial_weights_are_within_one_over_root_hidden_size(cell: type[Cell]) -> None:
    torch.manual_seed(0)
    for parameter in cell(4, 100).parameters():
        assert 0.09 < parameter.abs().max() <= 0.1
