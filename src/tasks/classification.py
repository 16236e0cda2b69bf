"""Multi-class and binary classification."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
)

from src.tasks.base import Task


def multiclass_metrics(classes: int, ignore_index: int | None = None) -> MetricCollection:
    """Return accuracy and macro-averaged F1 of classes, without the targets that are `ignore_index`."""
    options: dict[str, Any] = {"ignore_index": ignore_index, "validate_args": False}
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro", **options),
            "f1": MulticlassF1Score(classes, average="macro", **options),
        }
    )


class Classification(Task):
    """Softmax cross-entropy over logits [B, C] (textbook M2)."""

    name = "classification"

    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)

    def metrics(self) -> MetricCollection:
        return multiclass_metrics(self.spec.output_size)

    def update(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        metrics.update(outputs, targets)

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        names = self.spec.class_names or tuple(str(i) for i in range(self.spec.output_size))
        return [
            {"prediction": names[best], "probabilities": dict(zip(names, probabilities, strict=True))}
            for best, probabilities in zip(outputs.argmax(-1).tolist(), outputs.softmax(-1).tolist(), strict=True)
        ]


class BinaryClassification(Task):
    """Binary cross-entropy from logits [B] (textbook M2)."""

    name = "binary_classification"

    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        smoothed = targets * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, smoothed, reduction="none")

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "accuracy": BinaryAccuracy(validate_args=False),
                "f1": BinaryF1Score(validate_args=False),
                "auroc": BinaryAUROC(validate_args=False),
            }
        )

    def update(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        metrics.update(outputs.sigmoid(), targets.long())

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        no, yes = self.spec.class_names or ("0", "1")
        return [
            {"prediction": yes if p >= 0.5 else no, "probabilities": {no: 1 - p, yes: p}}
            for p in outputs.sigmoid().tolist()
        ]
