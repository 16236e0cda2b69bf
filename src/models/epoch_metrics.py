"""Meter: accumulates the loss and metrics of one split at every step and computes them once per epoch."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from src.core.errors import UserError
from src.tasks.base import Task


class Meter:
    """Sums losses on the device and updates the task's metrics.

    Args:
        task: the task whose loss and metrics are computed.
        detailed: compute the task's metrics too, not only the loss.
        decoded: also compute the metrics of generated sequences, if the task generates any.
        derived: also compute metrics that are derived from the loss; false where targets are smoothed, which makes them
            meaningless.
    """

    def __init__(self, task: Task, detailed: bool = True, decoded: bool = False, derived: bool = True) -> None:
        self.task = task
        self.derived = derived
        self.metrics: MetricCollection | None = task.metrics() if detailed else None
        self.decoded: MetricCollection | None = task.decoded_metrics() if decoded else None
        self._sum = 0.0
        self._totals: list[Tensor] = []
        self._count: Tensor | float = 0.0

    def to(self, device: torch.device) -> "Meter":
        for metrics in filter(None, (self.metrics, self.decoded)):
            nn.Module.to(metrics, device)
        return self

    def add(self, losses: Tensor, weights: Tensor | None) -> Tensor:
        """Add a batch of losses and return their weighted mean, with its graph."""
        if losses.dtype in (torch.float16, torch.bfloat16):
            losses = losses.float()
        total = losses.sum()
        count = losses.numel() if weights is None else weights.sum().clamp(min=1)
        self._totals.append(total.detach())
        if len(self._totals) == 1000:
            self._add_up()
        self._count = self._count + count
        return total / count

    def _add_up(self) -> float:
        """Add the totals of the last batches to the sum, one by one, in Python's 64-bit floats: a long 32-bit sum would stop
        growing. Called rarely, because it synchronizes with the device.
        """
        for total in torch.stack(self._totals).tolist() if self._totals else ():
            self._sum += total
        self._totals = []
        return self._sum

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        assert self.metrics is not None
        self.task.update(self.metrics, outputs, targets)

    def update_decoded(self, generated: Tensor, targets: Tensor) -> None:
        assert self.decoded is not None
        self.task.update_decoded(self.decoded, generated, targets)

    def compute(self, strategy: Any) -> dict[str, Tensor]:
        """Return every metric, reduced over all devices.

        Raises:
            UserError: if there was no example, as in an epoch that is resumed from a damaged checkpoint.
        """
        dtype = torch.float32 if strategy.root_device.type == "mps" else torch.float64
        total, count = (
            strategy.reduce(torch.as_tensor(value, dtype=dtype, device=strategy.root_device), reduce_op="sum")
            for value in (self._add_up(), self._count)
        )
        if not count:
            raise UserError(
                "an epoch without a single target cannot be measured: the data are empty or padding only, or the progress in "
                "the checkpoint is damaged"
            )
        values: dict[str, Tensor] = {"loss": total / count}
        for metrics in filter(None, (self.metrics, self.decoded)):
            values |= metrics.compute()
        return values | self.task.derived(values) if self.derived else values

    def partial_sums(self) -> list[Any]:
        """Return the sums of an unfinished epoch."""
        return [self._add_up(), self._count]

    def load_partial_sums(self, sums: list[Any]) -> None:
        """Restore the sums of an unfinished epoch."""
        self._sum, self._count = float(sums[0]), sums[1]

    def reset(self) -> None:
        self._sum = self._count = 0.0
        self._totals = []
        for metrics in filter(None, (self.metrics, self.decoded)):
            metrics.reset()
