"""Dropping weights or whole residual branches (textbook, Advanced Variants); torch has dropout of units and of maps.

Every probability here and in the configs is the probability to drop, as in torch. The textbook's section on dropout
calls the probability to retain p, which is 1 minus ours (erratum E6). All variants are inverted: what is kept is divided
by the probability to keep it, so that the expectation stays and evaluation changes nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropConnect(nn.Linear):
    """A fully connected layer whose weights are dropped, each on its own: y = ((M ⊙ W) / (1 - p)) x + b with
    M_ij ~ Bernoulli(1 - p) (Wan et al. 2013, in the inverted form).

    One mask serves a batch, where the paper draws one for every example: that would cost a matrix for each. The bias
    is never dropped. Parameters and their initial values are those of ``nn.Linear``.

    Args:
        width_in, width_out: numbers in an input and in an output.
        drop: p, the probability to drop a weight, in [0, 1).
    """

    def __init__(self, width_in: int, width_out: int, drop: float) -> None:
        super().__init__(width_in, width_out)
        assert 0 <= drop < 1
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width_in] to [..., width_out]; in evaluation nothing is dropped."""
        return F.linear(x, F.dropout(self.weight, self.drop, self.training), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, drop={self.drop}"


def drop_state_weights(recurrent: nn.RNNBase, drop: float, *inputs: Any) -> Any:
    """Call a recurrent network with dropped hidden-to-hidden weights (DropConnect of AWD-LSTM, Merity et al. 2018).

    One mask serves all time steps of a batch, so that a connection is absent for a whole sequence.

    Args:
        recurrent: one of torch's recurrent networks; in evaluation nothing is dropped.
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
    """Drops an example's whole residual branch with a probability, and scales the kept ones so that the mean stays
    (Huang et al. 2016, in the inverted form).

    Args:
        drop: probability to drop a branch, in [0, 1).
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        assert 0 <= drop < 1
        self.drop = drop

    def forward(self, branch: Tensor) -> Tensor:
        """Map [B, …] to [B, …]; in evaluation nothing is dropped."""
        if not self.training or self.drop == 0:
            return branch
        keep = 1 - self.drop
        kept = torch.empty(branch.size(0), *[1] * (branch.dim() - 1), device=branch.device).bernoulli_(keep)
        return branch * (kept / keep).to(branch.dtype)

    def extra_repr(self) -> str:
        return f"drop={self.drop}"
