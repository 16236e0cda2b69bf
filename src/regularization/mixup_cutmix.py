"""Mixup and CutMix: mix pairs of examples of a batch, on the device (textbook, Advanced Techniques).

Class labels are mixed through their losses, which are linear in the label, smoothed or not: train/loss is the loss of the
mixed labels, which is higher than that of the original examples. Training computes no other metric, because a prediction for
a mixed example is neither right nor wrong; ``python -m src.evaluate RUN split=train`` evaluates the original examples.
Targets of regression and forecasting are mixed directly.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Gamma

from src.core.batches import LabelledBatch


class Mixing(NamedTuple):
    """How a batch was mixed: λ times example i plus 1 - λ times example partner[i].

    Args:
        partner: [B] int64.
        share: λ.
    """

    partner: Tensor
    share: float

    def blend(self, values: Tensor, partner_values: Tensor) -> Tensor:
        """Return λ · values + (1 - λ) · partner_values, of losses or labels."""
        return self.share * values + (1 - self.share) * partner_values


def draw_share(alpha: float) -> float:
    """Draw λ ~ Beta(α, α) from torch's generator."""
    first, second = Gamma(torch.full((2,), alpha, dtype=torch.float64), 1.0).sample().tolist()
    return first / (first + second) if first + second > 0 else 1.0


def mixup(batch: LabelledBatch, alpha: float) -> tuple[LabelledBatch, Mixing]:
    """Mix inputs: x̃_i = λ x_i + (1 - λ) x_partner(i) (Zhang et al. 2018).

    Args:
        batch: any numeric inputs.
        alpha: alpha of Beta(α, α), above 0.
    """
    partner = torch.randperm(len(batch.x), device=batch.x.device)
    mixing = Mixing(partner, draw_share(alpha))
    return batch._replace(x=mixing.blend(batch.x, batch.x[partner])), mixing


def cutmix(batch: LabelledBatch, alpha: float) -> tuple[LabelledBatch, Mixing]:
    """Paste a rectangle of the partner's image; λ is the share of the area that remains (Yun et al. 2019).

    Args:
        batch: images [B, C, H, W].
        alpha: alpha of Beta(α, α), above 0.
    """
    height, width = batch.x.shape[-2:]
    side = (1 - draw_share(alpha)) ** 0.5
    center_y, center_x = (torch.rand(2) * torch.tensor([height, width])).tolist()
    top, bottom = _clipped_interval(center_y, side * height, height)
    left, right = _clipped_interval(center_x, side * width, width)
    partner = torch.randperm(len(batch.x), device=batch.x.device)
    x = batch.x.clone()
    x[..., top:bottom, left:right] = batch.x[partner, ..., top:bottom, left:right]
    return batch._replace(x=x), Mixing(partner, 1 - (bottom - top) * (right - left) / (height * width))


def _clipped_interval(center: float, length: float, end: int) -> tuple[int, int]:
    return max(round(center - length / 2), 0), min(round(center + length / 2), end)
