"""The textbook's cells against its page, gate by gate, and against torch's kernels where the equations are the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.layers.recurrent_cells import Cell, GRUCell, Layers, LSTMCell, RNNCell

F, H = 3, 5
KERNELS: dict[type[Cell], Any] = {RNNCell: nn.RNN, LSTMCell: nn.LSTM, GRUCell: nn.GRU}
ORDER: dict[type[Cell], tuple[str, ...]] = {RNNCell: ("h",), LSTMCell: ("i", "f", "C", "o"), GRUCell: ("r", "z", "h")}
"""The gates as torch stacks them."""


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(cell: type[Cell], num_layers: int = 1, bidirectional: bool = False, inputs: int = F) -> Layers:
    torch.manual_seed(0)
    layers = Layers(cell, inputs, H, num_layers, bidirectional).double()
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.7)
    return layers


def blocks(cell: Cell) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """W, which the textbook multiplies with [h_{t-1}, x_t], and b of every gate."""
    W = torch.cat((cell.W_h, cell.W_x), 1).split(H)
    return dict(zip(cell.gates, W, strict=True)), dict(zip(cell.gates, cell.b.split(H), strict=True))


def rnn_page(W: dict, b: dict, x: Tensor, h: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tanh(W["h"] @ torch.cat((h, x)) + b["h"]), C


def lstm_page(W: dict, b: dict, x: Tensor, h: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    f = torch.sigmoid(W["f"] @ torch.cat((h, x)) + b["f"])
    i = torch.sigmoid(W["i"] @ torch.cat((h, x)) + b["i"])
    candidate = torch.tanh(W["C"] @ torch.cat((h, x)) + b["C"])
    C = f * C + i * candidate
    o = torch.sigmoid(W["o"] @ torch.cat((h, x)) + b["o"])
    return o * torch.tanh(C), C


def gru_page(W: dict, b: dict, x: Tensor, h: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    r = torch.sigmoid(W["r"] @ torch.cat((h, x)) + b["r"])
    z = torch.sigmoid(W["z"] @ torch.cat((h, x)) + b["z"])
    candidate = torch.tanh(W["h"] @ torch.cat((r * h, x)) + b["h"])
    return (1 - z) * h + z * candidate, C


PAGES: dict[type[Cell], Callable] = {RNNCell: rnn_page, LSTMCell: lstm_page, GRUCell: gru_page}


def by_the_page(cell: Any, x: Tensor, h: Tensor, C: Tensor) -> Tensor:
    """h_t of every step of one sequence [T, F]."""
    states, (W, b) = [], blocks(cell)
    for step in x:
        h, C = PAGES[type(cell)](W, b, step, h, C)
        states.append(h)
    return torch.stack(states)


@pytest.mark.req("R1")
@pytest.mark.parametrize("cell", PAGES)
def test_states_and_gradients_are_the_page_s(cell: type[Cell]) -> None:
    layers, x, h, C = made(cell), numbers(2, 7, F), numbers(2, H, seed=2), numbers(2, H, seed=3)
    tensors = [x, h, *([C] if cell is LSTMCell else []), *layers.parameters()]
    for tensor in tensors[: -len(list(layers.parameters()))]:
        tensor.requires_grad_()
    start = (h.unsqueeze(0), C.unsqueeze(0)) if cell is LSTMCell else h.unsqueeze(0)
    found = layers(x, start)[0]
    page = torch.stack([by_the_page(layers.cells[0], x[n], h[n], C[n]) for n in range(2)])
    torch.testing.assert_close(found, page, rtol=0, atol=1e-12)
    weights = numbers(2, 7, H, seed=4)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), tensors) for out in (found, page))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def copied(layers: Layers, kernel: Any, change: Callable[[str, Tensor], Tensor] = lambda gate, W: W) -> Any:
    """Give torch's kernel the weights of the textbook's cells, gate by gate; its second bias is zero."""
    theirs = kernel.double()
    suffixes = [f"_l{n}{end}" for n in range(layers.num_layers) for end in ("", "_reverse")[: layers.directions]]
    with torch.no_grad():
        for cell, suffix in zip(layers.cells, suffixes, strict=True):
            for ours, name in (("W_x", "weight_ih"), ("W_h", "weight_hh"), ("b", "bias_ih")):
                parts = dict(zip(cell.gates, getattr(cell, ours).split(H), strict=True))  # type: ignore[arg-type, union-attr, operator]
                stacked = torch.cat([change(gate, parts[gate]) for gate in ORDER[type(cell)]])  # type: ignore[index]
                getattr(theirs, name + suffix).copy_(stacked)
            getattr(theirs, "bias_hh" + suffix).zero_()
    return theirs


def weighted(outputs: Tensor, last: Any) -> Tensor:
    """A number that depends on every output and on the last states, which pass the padded steps."""
    parts = (outputs, *(last if isinstance(last, tuple) else (last,)))
    return torch.stack([(part * numbers(*part.shape, seed=5 + n)).sum() for n, part in enumerate(parts)]).sum()


@pytest.mark.req("R1", "R2")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", [RNNCell, LSTMCell])
def test_rnn_and_lstm_are_torch_s(cell: type[Cell], num_layers: int, bidirectional: bool) -> None:
    """Outputs, last states and gradients on a ragged batch, from a state that is not zero."""
    layers = made(cell, num_layers, bidirectional)
    theirs = copied(layers, KERNELS[cell](F, H, num_layers, batch_first=True, bidirectional=bidirectional))
    x, lengths = numbers(4, 9, F).requires_grad_(), torch.tensor([9, 4, 1, 7])
    states = [
        numbers(num_layers * layers.directions, 4, H, seed=2 + n).requires_grad_() for n in range(cell.num_states)
    ]
    start: Any = tuple(states) if cell is LSTMCell else states[0]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, last = theirs(packed, start)
    expected = nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)[0]
    found, ours_last = layers(x, start, lengths)
    torch.testing.assert_close((found, ours_last), (expected, last), rtol=0, atol=1e-12)
    ours, torchs = (
        torch.autograd.grad(weighted(outputs, end), [x, *states, weight])
        for outputs, end, weight in (
            (found, ours_last, layers.cells[0].W_h),
            (expected, last, theirs.weight_hh_l0),
        )
    )
    torch.testing.assert_close(ours[:-1], torchs[:-1], rtol=0, atol=1e-11)
    rows = [ORDER[cell].index(gate) for gate in layers.cells[0].gates]  # type: ignore[union-attr]
    stacked = torch.cat([torchs[-1].split(H)[row] for row in rows])
    torch.testing.assert_close(ours[-1], stacked, rtol=0, atol=1e-11)


def with_z_swapped(gate: str, W: Tensor) -> Tensor:
    """σ(-a) = 1 - σ(a): the same gate, as the share of h_{t-1}."""
    return -W if gate == "z" else W


@pytest.mark.req("R1")
def test_gru_is_torch_s_where_the_reset_gate_commutes_with_the_product() -> None:
    """E7: with a diagonal W_h of the candidate, W (r ⊙ h) = r ⊙ (W h), and only z has to be swapped."""
    layers, x = made(GRUCell), numbers(4, 9, F)
    candidate = layers.cells[0].W_h.data[2 * H :]  # type: ignore[union-attr, index]
    candidate.copy_(candidate.diag().diag())
    theirs = copied(layers, nn.GRU(F, H, batch_first=True), with_z_swapped)
    torch.testing.assert_close(layers(x)[0], theirs(x)[0], rtol=0, atol=1e-12)
    unswapped = copied(layers, nn.GRU(F, H, batch_first=True))
    assert (layers(x)[0] - unswapped(x)[0]).abs().max() > 0.1


@pytest.mark.req("R1")
def test_gru_differs_from_torch_s_elsewhere() -> None:
    """E7: the same from a state of zero after one step, where nothing is reset yet, and no longer after two."""
    layers, x = made(GRUCell), numbers(4, 9, F)
    theirs = copied(layers, nn.GRU(F, H, batch_first=True), with_z_swapped)
    ours, others = layers(x)[0], theirs(x)[0]
    torch.testing.assert_close(ours[:, 0], others[:, 0], rtol=0, atol=1e-12)
    assert ((ours - others)[:, 1:].abs().amax((0, 2)) > 0.01).all()


@pytest.mark.parametrize("cell", PAGES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_mixed_precision_is_near(cell: type[Cell], dtype: torch.dtype) -> None:
    layers = made(cell, 2, True).float()
    x, lengths = numbers(4, 9, F).float(), torch.tensor([9, 4, 1, 7])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        found = layers(x, None, lengths)[0]
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), layers(x, None, lengths)[0], rtol=0, atol=0.1)
    found.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layers.parameters())


def test_half_precision_keeps_the_digits_of_small_states() -> None:
    """Where tanh(a) is small, σ(2a) in bfloat16 has none of them."""
    layers, x = made(LSTMCell), numbers(4, 9, F) / 100
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.1)
    nn.init.zeros_(layers.cells[0].b)  # type: ignore[arg-type]
    exact = layers(x)[0]
    found = layers.bfloat16()(x.bfloat16())[0]
    assert (found - exact).abs().mean() < 0.02 * exact.abs().mean()


@pytest.mark.req("R2")
@pytest.mark.parametrize("cell", PAGES)
def test_dropout_is_between_layers_and_not_above_the_top_one(cell: type[Cell]) -> None:
    layers, x = made(cell, 2), numbers(4, 9, F)
    layers.dropout.p = 0.5
    assert (layers(x)[0] != 0).all()
    assert not torch.equal(layers(x)[0], layers(x)[0])
    assert torch.equal(layers.eval()(x)[0], layers(x)[0])


@pytest.mark.req("R1")
@pytest.mark.parametrize("cell", PAGES)
def test_weights_start_within_the_root_of_the_state_s_width(cell: type[Cell]) -> None:
    torch.manual_seed(0)
    for parameter in cell(4, 100).parameters():
        assert 0.09 < parameter.abs().max() <= 0.1
