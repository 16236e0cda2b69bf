"""Recurrent layers within a vmap over members: they leave it and loop over time with batched products of all members."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from src.fused.layers.dropout import HasDropoutRate, dropout_mask
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
    steps = _lstm_steps if isinstance(cell, LSTMCell) else _steps_of(cell)
    outputs, *last = call_outside_vmap(steps, *weights, x, valid, *state)
    return outputs.flip(0) if backwards else outputs, tuple(last)


def _lstm_steps(
    W_x: Tensor, W_h: Tensor, b: Tensor, x: Tensor, valid: Tensor | None, h: Tensor, C: Tensor
) -> tuple[Tensor, ...]:
    valid = None if valid is None else valid.transpose(0, 1)
    outputs, C = MembersLSTM.apply(x.transpose(0, 1), W_x, W_h, b, h, C, valid)
    return outputs.transpose(0, 1), outputs[-1], C


def _steps_of(cell: Cell) -> Callable[..., tuple[Tensor, ...]]:
    """Return the time loop of a cell, over x [K, T, B, F] with states [K, B, H]."""

    def steps(
        W_x: Tensor, W_h: Tensor, b: Tensor, x: Tensor, valid: Tensor | None, *state: Tensor
    ) -> tuple[Tensor, ...]:
        a = torch.baddbmm(b.unsqueeze(1), x.flatten(1, 2), W_x.mT).unflatten(1, x.shape[1:3])  # [K, T, B, gates · H]
        weights = cell.weights(W_h)
        outputs = []
        for t, a_t in enumerate(a.unbind(1)):
            new_state = cell.step(a_t, state, weights)
            if valid is not None:
                new_state = tuple(torch.where(valid[:, t], new, old) for new, old in zip(new_state, state, strict=True))
            state = new_state
            outputs.append(state[0])
        return torch.stack(outputs, 1), *state

    return steps


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
        self.cells = [_KernelCell(self, suffix) for suffix in suffixes]  # type: ignore[assignment]

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


class _KernelCell:
    def __init__(self, kernel: MemberRNN, suffix: str) -> None:
        self.kernel, self.suffix = kernel, suffix

    def __call__(
        self, x: Tensor, state: State, valid: Tensor | None = None, backwards: bool = False
    ) -> tuple[Tensor, State]:
        return run_cell(self.kernel._equations[0], self.kernel.weights_of(self.suffix), x, state, valid, backwards)
