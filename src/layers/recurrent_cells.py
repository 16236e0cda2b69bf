"""Recurrent cells with the textbook's equations (RNN, LSTM and GRU Equations), and layers of them.

The textbook writes W·[h_{t-1}, x_t] + b for every gate. Here W is stored as two blocks, W_h for h_{t-1} and W_x for x_t,
each with the gates stacked along its rows; W_x·x_t + b of all steps is one matrix product before the loop over time.
"""

from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State: TypeAlias = tuple[Tensor, ...]
"""The state that a cell passes to the next step: (h,), for an LSTM (h, C); each [B, H]."""


class Cell(nn.Module):
    """One layer in one direction: reads a sequence and returns its state at every step.

    Weights and biases are initialized uniformly in ±1/√H, as in torch.

    Args:
        input_size: F, number of features of a step.
        hidden_size: H, width of the state.
    """

    gates: ClassVar[tuple[str, ...]]
    """The blocks of H rows of W and b, named by the textbook's subscripts."""
    num_states: ClassVar[int] = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        rows, bound = len(self.gates) * hidden_size, hidden_size**-0.5
        self.hidden_size = hidden_size
        self.W_x = nn.Parameter(torch.empty(rows, input_size))
        self.W_h = nn.Parameter(torch.empty(rows, hidden_size))
        self.b = nn.Parameter(torch.empty(rows))
        for weight in (self.W_x, self.W_h, self.b):  # only now, as weights that are too large are refused above
            nn.init.uniform_(weight, -bound, bound)

    def weights(self, W_h: Tensor) -> tuple[Tensor, ...]:
        """Return the blocks of W_h that `step` multiplies with, transposed."""
        return (W_h.mT,)

    def step(self, a: Tensor, state: State, weights: tuple[Tensor, ...]) -> State:
        """Return the next state.

        Args:
            a: W_x·x_t + b [B, gates · H].
            state: the state before the step.
            weights: the result of `weights`.

        All may have a leading dimension of members.
        """
        raise NotImplementedError

    def forward(
        self, x: Tensor, state: State, valid: Tensor | None = None, backwards: bool = False
    ) -> tuple[Tensor, State]:
        """Read a sequence.

        Args:
            x: [T, B, F].
            state: the state before the first step that is read.
            valid: [T, B, 1] True where x is not padding; a padded step leaves the state unchanged.
            backwards: read from the last step to the first.

        Returns:
            h_t of every step [T, B, H], and the state after the last step that is read.
        """
        if backwards:
            outputs, state = self(x.flip(0), state, None if valid is None else valid.flip(0))
            return outputs.flip(0), state
        a = F.linear(x, self.W_x, self.b)  # [T, B, gates · H]
        state = tuple(part.to(a.dtype) for part in state)  # autocast may have changed it
        return self.run_steps(a, state, self.W_h, valid)

    def run_steps(self, a: Tensor, state: State, W_h: Tensor, valid: Tensor | None) -> tuple[Tensor, State]:
        """Take one step after the other; arguments as in `step` and results as in `forward`, with time as first dimension."""
        weights = self.weights(W_h)
        outputs = []
        for t, a_t in enumerate(a.unbind(0)):
            next_state = self.step(a_t, state, weights)
            if valid is not None:
                next_state = tuple(torch.where(valid[t], new, old) for new, old in zip(next_state, state, strict=True))
            state = next_state
            outputs.append(state[0])
        return torch.stack(outputs), state


def _add_product(a: Tensor, h: Tensor, W: Tensor) -> Tensor:
    """Return a + h·W, for matrices or for batches of matrices (one per member)."""
    return torch.addmm(a, h, W) if a.dim() == 2 else torch.baddbmm(a, h, W)


class RNNCell(Cell):
    """Vanilla RNN."""

    gates = ("h",)

    def step(self, a: Tensor, state: State, weights: tuple[Tensor, ...]) -> State:
        (h,), (W_hh,) = state, weights
        return (torch.tanh(_add_product(a, h, W_hh)),)


class LSTMCell(Cell):
    """Long short-term memory: C_t = f_t ⊙ C_{t-1} + i_t ⊙ C̃_t and h_t = o_t ⊙ tanh(C_t). The state is (h, C)."""

    gates = ("o", "f", "i", "C")
    num_states = 2

    def step(self, a: Tensor, state: State, weights: tuple[Tensor, ...]) -> State:
        (h, C), (W_h,) = state, weights
        a_ofi, a_C = _add_product(a, h, W_h).split((3 * self.hidden_size, self.hidden_size), -1)
        o, f, i = a_ofi.sigmoid().chunk(3, -1)
        candidate = torch.tanh(a_C)
        C = f * C + i * candidate
        return o * torch.tanh(C), C


class GRUCell(Cell):
    """Gated recurrent unit: r gates h_{t-1} before the product with W_h, and z weights the candidate.

    ``torch.nn.GRU`` applies r after the product, r ⊙ (W·h_{t-1} + b), and its z weights h_{t-1} (erratum E7).
    """

    gates = ("r", "z", "h")

    def weights(self, W_h: Tensor) -> tuple[Tensor, ...]:
        gates, candidate = W_h.split((2 * self.hidden_size, self.hidden_size), -2)
        return gates.mT, candidate.mT

    def step(self, a: Tensor, state: State, weights: tuple[Tensor, ...]) -> State:
        (h,), (W_rz, W_h) = state, weights
        a_rz, a_h = a.split((2 * self.hidden_size, self.hidden_size), -1)
        r, z = _add_product(a_rz, h, W_rz).sigmoid().chunk(2, -1)
        candidate = torch.tanh(_add_product(a_h, r * h, W_h))
        return (torch.lerp(h, candidate, z),)  # (1 - z) ⊙ h + z ⊙ candidate


class InitialState(nn.ParameterList):
    """A learned state before the first step, initialized with zeros.

    Args:
        cells: layers · directions.
        hidden_size: H, width of the state.
        num_states: number of tensors of a state: 1, for an LSTM 2.
    """

    def __init__(self, cells: int, hidden_size: int, num_states: int) -> None:
        super().__init__(nn.Parameter(torch.zeros(cells, 1, hidden_size)) for _ in range(num_states))

    def for_batch(self, batch_size: int) -> Tensor | State:
        """Return the state expanded to the sequences of a batch, tensors of [cells, B, H]."""
        states = tuple(state.expand(-1, batch_size, -1).contiguous() for state in self)
        return states if len(states) > 1 else states[0]


class RecurrentLayers(nn.Module):
    """Stacked layers of cells in one or both directions; called as ``torch.nn.RNN`` with ``batch_first=True``.

    Args:
        cell: class of the cells.
        input_size: F, number of features of a step.
        hidden_size: H, width of the state in each direction.
        num_layers: number of layers; each reads the states of the layer below.
        bidirectional: read backwards too.
        dropout: probability to drop a unit between layers.
    """

    def __init__(
        self,
        cell: type[Cell],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = num_layers, hidden_size
        self.bidirectional = bidirectional
        self.dropout = nn.Dropout(dropout)
        self.num_states = cell.num_states
        self.directions = 2 if bidirectional else 1
        widths = [input_size] + [self.directions * hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(cell(width, hidden_size) for width in widths for _ in range(self.directions))

    def forward(
        self, x: Tensor, state: Tensor | State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | State]:
        """Read sequences.

        Args:
            x: [B, T, F].
            state: before the first step, [layers · directions, B, H], for an LSTM (h, C); zero by default.
            lengths: [B] valid steps of each sequence; later steps have no effect.

        Returns:
            The top layer's h_t of every step [B, T, directions · H], zero after the end of a sequence, and the state of each
            layer and direction after its last valid step, shaped as `state`.
        """
        if state is None:
            state = (x.new_zeros(len(self.cells), x.size(0), self.hidden_size),) * self.num_states
        states = (state,) if isinstance(state, Tensor) else state
        valid = None
        if lengths is not None:
            valid = (torch.arange(x.size(1), device=x.device)[:, None] < lengths.to(x.device)).unsqueeze(-1)
        outputs = x.transpose(0, 1).contiguous()
        last_states = []
        for layer in range(self.num_layers):
            directions = []
            for direction in range(self.directions):
                index = layer * self.directions + direction
                initial = tuple(part[index] for part in states)
                hidden, last_state = self.cells[index](outputs, initial, valid, backwards=direction == 1)
                directions.append(hidden)
                last_states.append(last_state)
            outputs = torch.cat(directions, -1) if self.bidirectional else directions[0]
            if layer + 1 < self.num_layers:
                outputs = self.dropout(outputs)
        if valid is not None:
            outputs = outputs * valid
        stacked = tuple(torch.stack(parts) for parts in zip(*last_states, strict=True))
        return outputs.transpose(0, 1), stacked if self.num_states > 1 else stacked[0]
