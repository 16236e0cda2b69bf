"""Recurrent layers within a vmap over members: they leave it and loop over time with batched products of all members."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from src.fused.layers.dropout import HasDropoutRate, dropout_mask
from src.fused.layers.linear import batched_linear
from src.fused.layers.lstm import MembersLSTM
from src.fused.layers.vmap_escape import call_outside_vmap
from src.layers.recurrent_cells import Cell, LSTMCell, RecurrentLayers, RNNCell, State

Weights = tuple[Tensor, Tensor, Tensor]
"""W_x, W_h and b of a cell."""


class TorchGRUCell(Cell):
    """Equations of torch's GRU: h̃ = tanh(W_x·x + b_x + r ⊙ (W_h·h + b_h)), and z is the weight of h (erratum E7).

    The last column of W_h is b_h, because only the rows of r and z can be added to the bias of x.
    """

    gates = ("r", "z", "h")

    def weights(self, W_h: Tensor) -> tuple[Tensor, ...]:
        return W_h[..., :-1].mT, W_h[..., -self.hidden_size :, -1].unsqueeze(-2)

    def step(self, a: Tensor, state: State, weights: tuple[Tensor, ...]) -> State:
        (h,), (W, b_h) = state, weights
        a_rz, a_h = a.split((2 * self.hidden_size, self.hidden_size), -1)
        from_rz, from_h = (h @ W).split((2 * self.hidden_size, self.hidden_size), -1)
        r, z = (a_rz + from_rz).sigmoid().chunk(2, -1)
        candidate = torch.tanh(a_h + r * (from_h + b_h))
        return (torch.lerp(candidate, h, z),)


# ---- Cells -----------------------------------------------------------------------------------------------------


def run_cell(
    cell: Cell, weights: Weights, x: Tensor, state: State, valid: Tensor | None, backwards: bool
) -> tuple[Tensor, State]:
    """Run a cell over a sequence, within a vmap over members.

    Args:
        cell: provides the equations.
        weights: weights of one member.
        x, state, valid, backwards: as in the cell's `forward`.
    """
    if backwards:
        x, valid = x.flip(0), None if valid is None else valid.flip(0)
    outputs, *last = call_outside_vmap(partial(_run_members, cell), *weights, x, valid, *state)
    return outputs.flip(0) if backwards else outputs, tuple(last)


def _run_members(
    cell: Cell, W_x: Tensor, W_h: Tensor, b: Tensor, x: Tensor, valid: Tensor | None, *state: Tensor
) -> tuple[Tensor, ...]:
    """Run a cell with the weights of each member over x [K, T, B, F], with states [K, B, H]."""
    valid = None if valid is None else valid.transpose(0, 1)
    last: State
    if isinstance(cell, LSTMCell):
        outputs, C = MembersLSTM.apply(x.transpose(0, 1), W_x, W_h, b, *state, valid)
        last = outputs[-1], C
    else:
        outputs, last = cell.run_steps(batched_linear(x, W_x, b).transpose(0, 1), state, W_h, valid)
    return outputs.transpose(0, 1), *last


class MemberCell(nn.Module):
    """One of the textbook's cells within a vmap over members.

    Args:
        cell: provides parameters and equations.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.W_x, self.W_h, self.b = cell.W_x, cell.W_h, cell.b
        self._equations = (cell,)  # the tuple hides it from torch: its parameters are not parameters of this module

    def forward(
        self, x: Tensor, state: State, valid: Tensor | None = None, backwards: bool = False
    ) -> tuple[Tensor, State]:
        return run_cell(self._equations[0], (self.W_x, self.W_h, self.b), x, state, valid, backwards)


# ---- torch's recurrent networks --------------------------------------------------------------------------------


class MemberRNN(RecurrentLayers, HasDropoutRate):
    """One of torch's recurrent networks within a vmap over members, computed from the equations of its cell.

    Its rate is that of DropConnect on the recurrent weights (`src.layers.dropout.drop_state_weights`).

    Args:
        kernel: ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``, which provides the parameters.

    Raises:
        ValueError: for settings that fused training does not support.
    """

    EQUATIONS: ClassVar[dict[str, type[Cell]]] = {"RNN_TANH": RNNCell, "LSTM": LSTMCell, "GRU": TorchGRUCell}

    def __init__(self, kernel: nn.RNNBase) -> None:
        HasDropoutRate.__init__(self)
        if kernel.mode not in self.EQUATIONS or kernel.proj_size or not kernel.batch_first or not kernel.bias:
            raise ValueError(f"{kernel} is not supported in fused training (src/fused/layers/recurrent.py)")
        self.num_layers, self.hidden_size = kernel.num_layers, kernel.hidden_size
        self.bidirectional = kernel.bidirectional
        equations = self.EQUATIONS[kernel.mode]
        self.num_states, self.directions = equations.num_states, 2 if kernel.bidirectional else 1
        self.dropout = nn.Dropout(kernel.dropout)
        self._equations = (equations(1, kernel.hidden_size),)
        for name, parameter in kernel.named_parameters():
            self.register_parameter(name, parameter)
        suffixes = [
            f"_l{layer}{suffix}" for layer in range(self.num_layers) for suffix in ("", "_reverse")[: self.directions]
        ]
        self.cells = [partial(self._run_cell, suffix) for suffix in suffixes]  # type: ignore[assignment]

    def _run_cell(
        self, suffix: str, x: Tensor, state: State, valid: Tensor | None, backwards: bool
    ) -> tuple[Tensor, State]:
        return run_cell(self._equations[0], self.weights_of(suffix), x, state, valid, backwards)

    def weights_of(self, suffix: str) -> Weights:
        """Return the weights of a layer in one direction, arranged for the equations of the cell.

        Args:
            suffix: suffix of the parameter names, such as ``_l0_reverse``.
        """
        W_x, W_h = getattr(self, f"weight_ih{suffix}"), getattr(self, f"weight_hh{suffix}")
        b_x, b_h = getattr(self, f"bias_ih{suffix}"), getattr(self, f"bias_hh{suffix}")
        if self.training and self.has_dropout:
            W_h = W_h * dropout_mask(W_h, tuple(W_h.shape), self.rate)
        cell = self._equations[0]
        if isinstance(cell, LSTMCell):  # torch orders the gates i, f, C, o
            return _reorder_gates(W_x), _reorder_gates(W_h), _reorder_gates(b_x + b_h)
        if isinstance(cell, TorchGRUCell):
            shared = 2 * self.hidden_size
            return W_x, torch.cat((W_h, b_h.unsqueeze(1)), 1), torch.cat((b_x[:shared] + b_h[:shared], b_x[shared:]))
        return W_x, W_h, b_x + b_h


def _reorder_gates(gates: Tensor) -> Tensor:
    i, f, candidate, o = gates.chunk(4)
    return torch.cat((o, f, i, candidate))
