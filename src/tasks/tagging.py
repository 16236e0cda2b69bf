"""Tagging: a class for every step of a sequence."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from src.tasks.base import Task
from src.tasks.classification import multiclass_metrics

IGNORE_INDEX = -100
"""The target of a step without a class, such as padding; losses and metrics ignore it."""


class Tagging(Task):
    """Softmax cross-entropy of every step, logits [B, T, C] against classes [B, T], averaged over time (textbook R4)."""

    name = "tagging"

    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(
            outputs.transpose(1, 2), targets, reduction="none", ignore_index=IGNORE_INDEX, label_smoothing=smoothing
        )

    def weights(self, targets: Tensor) -> Tensor | None:
        return (targets != IGNORE_INDEX).float()

    def metrics(self) -> MetricCollection:
        return multiclass_metrics(self.spec.output_size, IGNORE_INDEX)

    def update(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        metrics.update(outputs.flatten(0, 1), targets.flatten())

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        names = self.spec.class_names or tuple(str(i) for i in range(self.spec.output_size))
        return [{"prediction": " ".join(names[step] for step in row)} for row in outputs.argmax(-1).tolist()]
