"""Metrics of the members of a group in an evaluation, computed for all of them at once where the results are the same."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from src.fused.member import Member
from src.models.epoch_metrics import Meter
from src.tasks.classification import Classification


class GroupMetrics:
    """Collects the outputs of an evaluation, and returns a meter for each member.

    Args:
        members: all of the same task.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._task = members[0].model.task
        self.vectorized = type(self._task) is Classification
        """Whether all of the task's metrics are computed for all members at once."""
        self._meters: dict[Member, Meter] = {}
        if not self.vectorized:
            self._meters = {member: Meter(member.model.task).to(member.model.device) for member in members}
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._totals: list[Tensor] = []
        self._count = 0.0

    def update(self, members: Sequence[Member], outputs: Tensor, targets: Tensor) -> None:
        """Add the outputs [M, B, …] for a batch with targets [B, …], one row per member."""
        rows = len(members)
        repeated = targets.expand(rows, *targets.shape)
        losses = self._task.losses(outputs.flatten(0, 1), repeated.flatten(0, 1))
        self._totals.append(losses.unflatten(0, (rows, -1)).flatten(1).sum(1))
        weights = self._task.weights(targets)
        self._count += losses.numel() / rows if weights is None else float(weights.sum().clamp(min=1))
        if self.vectorized:
            self._outputs.append(outputs)
            self._targets.append(targets)
        else:  # the outputs of a whole split may not fit into memory for all members
            for member, member_outputs in zip(members, outputs, strict=True):
                self._meters[member].update(member_outputs, targets)

    def meters(self, members: Sequence[Member]) -> list[Any]:
        """Return a meter of each member with the metrics since the last call."""
        totals = torch.stack(self._totals, 1).tolist()  # [M, batches]
        sums = [sum(row) for row in totals]
        outputs, targets, count = self._outputs, self._targets, self._count
        self._outputs, self._targets, self._totals, self._count = [], [], [], 0.0
        if self.vectorized:
            metrics = _classification(torch.cat(outputs, 1), torch.cat(targets))
            losses = torch.tensor(sums, dtype=torch.float64) / count
            return [
                ComputedMetrics({"loss": losses[row]} | {name: values[row] for name, values in metrics.items()})
                for row in range(len(members))
            ]
        for row, member in enumerate(members):
            self._meters[member].load_partial_sums([sums[row], count])
        return [self._meters[member] for member in members]


class ComputedMetrics:
    """A meter whose metrics are computed already.

    Args:
        values: values of all metrics, by name.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        self._values = values

    def compute(self, strategy: Any) -> dict[str, Tensor]:
        return self._values

    def reset(self) -> None:
        """Do nothing: the next evaluation has a new object."""


def _classification(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the metrics [M] of `Classification` for logits [M, N, C] and targets [N]."""
    members, _, classes = outputs.shape
    options: dict[str, Any] = {"multidim_average": "samplewise", "validate_args": False}
    logits, repeated = outputs.transpose(1, 2), targets.expand(members, -1)
    return {
        "accuracy": multiclass_accuracy(logits, repeated, classes, average="micro", **options),
        "f1": multiclass_f1_score(logits, repeated, classes, average="macro", **options),
    }
