"""What the members of a group answer in a validation, measured for all of them at once where that is the same."""

from collections.abc import Sequence

import torch
from torch import Tensor

from src.sweeping.fused.member import Member
from src.tasks.classification import BinaryClassification, Classification


class Measuring:
    """Collects the outputs of a validation, and gives each member's meter its own.

    Args:
        members: whose task is the same.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._task = members[0].model.task
        self._counts = isinstance(self._task, Classification | BinaryClassification)
        """Whether metrics are counts, for which it does not matter how the examples are cut into batches."""
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._totals: list[Tensor] = []

    def add(self, members: Sequence[Member], outputs: Tensor, targets: Tensor) -> None:
        """Take the outputs [M, B, …] for a batch with targets [B, …], a row a member."""
        rows = len(members)
        repeated = targets.expand(rows, *targets.shape)
        losses = self._task.losses(outputs.flatten(0, 1), repeated.flatten(0, 1))
        self._totals.append(losses.unflatten(0, (rows, -1)).flatten(1).sum(1))
        self._outputs.append(outputs)
        self._targets.append(targets)

    def hand_out(self, members: Sequence[Member]) -> None:
        """Give each member's meter what it has measured, a row a member."""
        totals = torch.stack(self._totals, 1).tolist()  # [M, batches]
        counts = 0.0
        for targets in self._targets:
            weights = self._task.weights(targets)
            counts = counts + (self._loss_count(targets) if weights is None else weights.sum().clamp(min=1))
        batches = list(zip(self._outputs, self._targets, strict=True))
        if self._counts:
            batches = [(torch.cat(self._outputs, 1), torch.cat(self._targets))]
        for row, member in enumerate(members):
            meter = member.model._meter("val")
            total = 0.0
            for part in totals[row]:
                total += part
            meter.go_on([total, counts])
            for outputs, targets in batches:
                meter.update(outputs[row], targets)
        self._outputs, self._targets, self._totals = [], [], []

    def _loss_count(self, targets: Tensor) -> int:
        return losses_in(self._task.name, targets)


def losses_in(task: str, targets: Tensor) -> int:
    """Return of how many losses a batch without weights is the mean."""
    return targets.numel() if task in ("tagging", "language_modelling", "translation") else len(targets)
