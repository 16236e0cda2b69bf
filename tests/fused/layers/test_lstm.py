"""The explicit backward pass of the LSTM of all members against autograd through the textbook's cell."""

import pytest
import torch
from torch import Tensor

from src.fused.layers.linear import batched_linear
from src.fused.layers.lstm import MembersLSTM
from src.layers.recurrent_cells import LSTMCell

K, T, B, F, H = 3, 6, 4, 2, 5


@pytest.mark.parametrize("lengths", [None, (6, 1, 3, 5)])
@pytest.mark.parametrize("backwards", [False, True])
def test_states_and_gradients_are_those_of_the_cell(lengths: tuple[int, ...] | None, backwards: bool) -> None:
    """Lengths in reverse put the padding before the valid steps, as a cell that reads backwards sees it."""
    torch.manual_seed(0)
    shapes = ((T, K, B, F), (K, 4 * H, F), (K, 4 * H, H), (K, 4 * H), (K, B, H), (K, B, H))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    x, W_x, W_h, b, h, C = inputs
    valid = None
    if lengths is not None:
        valid = (torch.arange(T)[:, None] < torch.tensor(lengths)).unsqueeze(-1).unsqueeze(1).expand(T, K, B, 1)
        if backwards:
            valid = valid.flip(0)
    outputs, last_C = MembersLSTM.apply(x, W_x, W_h, b, h, C, valid)
    a = batched_linear(x.transpose(0, 1), W_x, b).transpose(0, 1)
    expected, (_, expected_C) = LSTMCell(F, H).run_steps(a, (h, C), W_h, valid)
    torch.testing.assert_close((outputs, last_C), (expected, expected_C))

    def gradients(outputs: Tensor, last_C: Tensor) -> tuple[Tensor, ...]:
        loss = (outputs * torch.arange(outputs.numel()).view_as(outputs).sin()).sum() + last_C.square().sum()
        return torch.autograd.grad(loss, inputs)

    torch.testing.assert_close(gradients(outputs, last_C), gradients(expected, expected_C))
