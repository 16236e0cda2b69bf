"""Task: loss, metrics and the conversion of outputs to predictions."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import MetricCollection

from src.core.data_spec import DataSpec


class Task(ABC):
    """Base class of tasks, which define the meaning of a model's outputs.

    Args:
        spec: the data.
    """

    name: ClassVar[str]

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss of every example [B], or of every token [B, T] with zeros where the target is padding.

        Args:
            outputs: outputs of the model's `forward`.
            targets: targets of the batch.
            smoothing: ε of the smoothed targets 1 - ε + ε/V and ε/V (textbook, Training Methodology).
        """

    def weights(self, targets: Tensor) -> Tensor | None:
        """Return the weight of each loss: None if all are equal, otherwise 1 for tokens and 0 for padding [B, T]."""
        return None

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Return the torchmetrics collection of one split, without the loss."""

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        """Add one batch to the metrics."""

    def derived(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the metrics that are derived from others, such as perplexity from the loss."""
        return {}

    def decoded_metrics(self) -> MetricCollection | None:
        """Return the metrics of generated sequences, computed on test; None if the task generates no sequences."""
        return None

    def update_decoded(self, metrics: MetricCollection, generated: Tensor, targets: Tensor) -> None:
        """Add one batch of generated sequences to the metrics of `decoded_metrics`."""
        raise AssertionError(f"{self.name} generates no sequences")

    @abstractmethod
    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """Return the prediction for each example, as a dictionary of plain Python values, as `predict` prints it."""
