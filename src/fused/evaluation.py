"""What the members of a group answer in an evaluation, measured for all of them at once where that is the same."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from src.fused.member import Member
from src.models.epoch_metrics import Meter
from src.tasks.classification import Classification


class Measuring:
    """Collects the outputs of an evaluation, and makes a meter a member of them.

    Args:
        members: whose task is the same.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._task = members[0].model.task
        self.at_once = type(self._task) is Classification
        """Whether all of the task's metrics are computed for all members at once."""
        self._meters: dict[Member, Meter] = {}
        if not self.at_once:
            self._meters = {member: Meter(member.model.task).to(member.model.device) for member in members}
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._totals: list[Tensor] = []
        self._count = 0.0

    def add(self, members: Sequence[Member], outputs: Tensor, targets: Tensor) -> None:
        """Take the outputs [M, B, …] for a batch with targets [B, …], a row a member."""
        rows = len(members)
        repeated = targets.expand(rows, *targets.shape)
        losses = self._task.losses(outputs.flatten(0, 1), repeated.flatten(0, 1))
        self._totals.append(losses.unflatten(0, (rows, -1)).flatten(1).sum(1))
        weights = self._task.weights(targets)
        self._count += losses.numel() / rows if weights is None else float(weights.sum().clamp(min=1))
        if self.at_once:
            self._outputs.append(outputs)
            self._targets.append(targets)
        else:  # the outputs of a whole split, for all members, may be too many for the memory
            for member, own in zip(members, outputs, strict=True):
                self._meters[member].update(own, targets)

    def meters(self, members: Sequence[Member]) -> list[Any]:
        """Return what was measured since the last call, a meter a member."""
        totals = torch.stack(self._totals, 1).tolist()  # [M, batches]
        sums = [sum(row) for row in totals]
        outputs, targets, count = self._outputs, self._targets, self._count
        self._outputs, self._targets, self._totals, self._count = [], [], [], 0.0
        if self.at_once:
            measured = _classification(torch.cat(outputs, 1), torch.cat(targets))
            losses = torch.tensor(sums, dtype=torch.float64) / count
            return [
                Measured({"loss": losses[row]} | {name: values[row] for name, values in measured.items()})
                for row in range(len(members))
            ]
        for row, member in enumerate(members):
            self._meters[member].go_on([sums[row], count])
        return [self._meters[member] for member in members]


class Measured:
    """A meter that has measured already.

    Args:
        values: of every metric.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        self._values = values

    def compute(self, strategy: Any) -> dict[str, Tensor]:
        return self._values

    def reset(self) -> None:
        """Do nothing: there is another one for the next evaluation."""


def _classification(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the metrics [M] of `Classification`, of logits [M, N, C] for targets [N]."""
    members, _, classes = outputs.shape
    how: dict[str, Any] = {"multidim_average": "samplewise", "validate_args": False}
    logits, truth = outputs.transpose(1, 2), targets.expand(members, -1)
    return {
        "accuracy": multiclass_accuracy(logits, truth, classes, average="micro", **how),
        "f1": multiclass_f1_score(logits, truth, classes, average="macro", **how),
    }
