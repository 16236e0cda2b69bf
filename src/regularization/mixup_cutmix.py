"""Mixup and CutMix: two examples become one, on the device, a batch at a time (textbook, Advanced Techniques).

Labels of classes are mixed through their losses, which are linear in the label, also when it is smoothed: train/loss is
the loss of the mixed labels, and lies above that of the examples themselves. It is all that is measured in training, as
an answer to a mixed example is neither right nor wrong; ``python -m src.evaluate RUN split=train`` measures the real ones.
Targets of regression and forecasting are mixed themselves.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Gamma

from src.core.batches import LabelledBatch


class Mixing(NamedTuple):
    """How a batch was mixed: example i holds a share λ of itself and 1 - λ of example partner[i].

    partner: [B] int64. share: λ.
    """

    partner: Tensor
    share: float

    def blend(self, own: Tensor, partners: Tensor) -> Tensor:
        """Return λ · own + (1 - λ) · partners, for losses as for labels."""
        return self.share * own + (1 - self.share) * partners


def draw_share(alpha: float) -> float:
    """Draw λ ~ Beta(α, α) from torch's generator."""
    first, second = Gamma(torch.full((2,), alpha, dtype=torch.float64), 1.0).sample().tolist()
    return first / (first + second) if first + second > 0 else 1.0


def mixup(batch: LabelledBatch, alpha: float) -> tuple[LabelledBatch, Mixing]:
    """Mix inputs: x̃_i = λ x_i + (1 - λ) x_partner(i) (Zhang et al. 2018).

    Args:
        batch: any numbers.
        alpha: of Beta(α, α), above 0.
    """
    partner = torch.randperm(len(batch.x), device=batch.x.device)
    mixing = Mixing(partner, draw_share(alpha))
    return batch._replace(x=mixing.blend(batch.x, batch.x[partner])), mixing


def cutmix(batch: LabelledBatch, alpha: float) -> tuple[LabelledBatch, Mixing]:
    """Paste a rectangle of the partner's image; λ is the share of the area that is left (Yun et al. 2019).

    Args:
        batch: images [B, C, H, W].
        alpha: of Beta(α, α), above 0.
    """
    height, width = batch.x.shape[-2:]
    side = (1 - draw_share(alpha)) ** 0.5
    middle_y, middle_x = (torch.rand(2) * torch.tensor([height, width])).tolist()
    top, bottom = _clipped(middle_y, side * height, height)
    left, right = _clipped(middle_x, side * width, width)
    partner = torch.randperm(len(batch.x), device=batch.x.device)
    x = batch.x.clone()
    x[..., top:bottom, left:right] = batch.x[partner, ..., top:bottom, left:right]
    return batch._replace(x=x), Mixing(partner, 1 - (bottom - top) * (right - left) / (height * width))


def _clipped(middle: float, length: float, end: int) -> tuple[int, int]:
    return max(round(middle - length / 2), 0), min(round(middle + length / 2), end)
