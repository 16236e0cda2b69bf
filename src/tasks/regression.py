"""Tasks with numeric predictions: regression and forecasting."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection, R2Score

from src.tasks.base import Task


class Regression(Task):
    """Mean squared error of targets [B, K] (textbook M2), on the scale that the datamodule standardised them to."""

    name = "regression"

    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.mse_loss(outputs, targets, reduction="none").flatten(1).mean(1)

    def metrics(self) -> MetricCollection:
        metrics: dict[str, Metric | MetricCollection] = {
            "mse": MeanSquaredError(),
            "mae": MeanAbsoluteError(),
            "rmse": MeanSquaredError(squared=False),
        }
        if self.name == "regression":
            metrics["r2"] = R2Score()
        return MetricCollection(metrics, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        metrics.update(outputs.flatten(), targets.flatten())

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        names = self.spec.target_names
        return [{"prediction": dict(zip(names, row, strict=True)) if names else row} for row in outputs.tolist()]


class Forecasting(Regression):
    """Mean squared error of the next values [B, horizon, series], averaged over time (textbook R4) and over the series.

    The textbook's 1/T Σ_t ‖y_t - ŷ_t‖² sums over the series and is larger by their number; published results of forecasts
    use the mean.
    """

    name = "forecasting"

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        return [{"prediction": steps} for steps in outputs.tolist()]
