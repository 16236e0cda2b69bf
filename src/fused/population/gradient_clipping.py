"""Clipping of gradients, with limits that differ from member to member."""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor


class GradientClipping:
    """The limits of all members; the limit of a member without clipping is infinite.

    Args:
        knobs: ``config.regularization`` of each member.
        like: tensor with the dtype and device of the parameters.
    """

    def __init__(self, knobs: Sequence[Any], like: Tensor) -> None:
        def limits(values: list[float | None]) -> Tensor | None:
            if all(value is None for value in values):
                return None
            return like.new_tensor([inf if value is None else value for value in values]).unsqueeze(1)

        norms = [knob.gradient_clip_norm for knob in knobs]
        self.norm = limits(norms)
        self.value = limits([k.gradient_clip_value if n is None else None for k, n in zip(knobs, norms, strict=True)])

    def select(self, rows: Tensor) -> None:
        """Continue with the members of these rows [M] only."""
        self.norm, self.value = (None if limit is None else limit[rows] for limit in (self.norm, self.value))

    def clip(self, g: Tensor) -> None:
        """Clip gradients [K, P] in place, by the norm of each member (as `torch.nn.utils.clip_grad_norm_`) or by value."""
        if self.norm is not None:
            norms = torch.linalg.vector_norm(g, dim=1, keepdim=True)
            g.mul_((self.norm / (norms + 1e-6)).clamp(max=1))
        if self.value is not None:
            torch.maximum(g, -self.value, out=g)
            torch.minimum(g, self.value, out=g)
