"""Task: what the data asks for. Loss, metrics and the way from outputs to answers."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import MetricCollection

from src.core.data_spec import DataSpec


class Task(ABC):
    """The meaning of a model's outputs.

    Args:
        spec: the data that the task is about.
    """

    name: ClassVar[str]

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss of every example [B], or of every token [B, T] with zeros where the target is padding.

        Args:
            outputs: what the model's `forward` returned.
            targets: what the batch asks for.
            smoothing: ε of the smoothed targets 1 - ε + ε/V and ε/V (textbook, Training Methodology).
        """

    def weights(self, targets: Tensor) -> Tensor | None:
        """Return what each loss counts: None where all count the same, else 1 for tokens and 0 for padding [B, T]."""
        return None

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Return the torchmetrics of one split, without the loss."""

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        """Add one batch to the metrics."""

    def derived(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the metrics that follow from others, such as perplexity from the loss."""
        return {}

    def decoded_metrics(self) -> MetricCollection | None:
        """Return the metrics of generated sequences, measured on test; None where a task generates nothing."""
        return None

    def update_decoded(self, metrics: MetricCollection, generated: Tensor, targets: Tensor) -> None:
        """Add one batch of generated sequences to the metrics of `decoded_metrics`."""
        raise AssertionError(f"{self.name} generates no sequences")

    @abstractmethod
    def answers(self, outputs: Tensor) -> list[dict[str, Any]]:
        """Return one dictionary of plain Python values for each example: what `predict` prints."""
