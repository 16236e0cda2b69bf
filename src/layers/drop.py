"""Dropping whole residual branches (textbook, Advanced Variants: stochastic depth)."""

import torch
from torch import Tensor, nn


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
