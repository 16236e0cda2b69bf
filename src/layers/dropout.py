"""Dropout of weights and of whole residual branches (textbook, Advanced Variants); torch has dropout of units and maps.

Every probability here and in the configs is the probability to drop, as in torch. The textbook's section on dropout
calls the probability to retain p, which is 1 minus ours (erratum E6). All variants are inverted: values that are not
dropped are divided by the probability to keep them, so that the expectation is unchanged and evaluation needs no scaling.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropConnect(nn.Linear):
    """A fully connected layer whose weights are dropped independently: y = ((M ⊙ W) / (1 - p)) x + b with
    M_ij ~ Bernoulli(1 - p) (Wan et al. 2013, in the inverted form).

    One mask is used for a whole batch; the paper draws one for every example, which would need a matrix for each. The bias
    is never dropped. Parameters and their initial values are those of ``nn.Linear``.

    Args:
        width_in, width_out: number of input and output features.
        drop: p, the probability to drop a weight, in [0, 1).
    """

    def __init__(self, width_in: int, width_out: int, drop: float) -> None:
        super().__init__(width_in, width_out)
        assert 0 <= drop < 1
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width_in] to [..., width_out]; nothing is dropped in evaluation mode."""
        return F.linear(x, F.dropout(self.weight, self.drop, self.training), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, drop={self.drop}"


def drop_state_weights(recurrent: nn.RNNBase, drop: float, *inputs: Any) -> Any:
    """Call a recurrent network with dropped hidden-to-hidden weights (DropConnect of AWD-LSTM, Merity et al. 2018).

    One mask is used for all time steps of a batch, so that a connection is absent for a whole sequence.

    Args:
        recurrent: one of torch's recurrent networks; nothing is dropped in evaluation mode.
        drop: probability to drop a weight, in [0, 1).
        inputs: arguments of the call.

    Returns:
        The outputs and the state that the network returns.
    """
    assert 0 <= drop < 1
    if not (recurrent.training and drop):
        return recurrent(*inputs)
    dropped = {
        name: F.dropout(weight, drop) for name, weight in recurrent.named_parameters() if name.startswith("weight_hh")
    }
    return torch.func.functional_call(recurrent, dropped, inputs)


class StochasticDepth(nn.Module):
    """Drops the whole residual branch of an example with a probability, and scales the others so that the mean is unchanged
    (Huang et al. 2016, in the inverted form).

    Args:
        drop: probability to drop a branch, in [0, 1).
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        assert 0 <= drop < 1
        self.drop = drop

    def forward(self, branch: Tensor) -> Tensor:
        """Map [B, …] to [B, …]; nothing is dropped in evaluation mode."""
        if not self.training or self.drop == 0:
            return branch
        keep = 1 - self.drop
        mask = torch.empty(branch.size(0), *[1] * (branch.dim() - 1), device=branch.device).bernoulli_(keep)
        return branch * (mask / keep).to(branch.dtype)

    def extra_repr(self) -> str:
        return f"drop={self.drop}"
