"""Losses and metrics of padded sequences of different lengths against their formulas in float64."""

import math

import lightning as L
import pytest
import torch
from torch import Tensor

from src.core.batches import LabelledBatch, SequenceBatch
from src.core.data_spec import DataSpec
from src.models.epoch_metrics import Meter
from src.models.recurrent import GRU
from src.tasks.factory import build_task
from src.tasks.tagging import IGNORE_INDEX

CPU = L.pytorch.strategies.SingleDeviceStrategy(device="cpu")
LENGTHS = [[5, 2, 9], [1], [9, 9, 3, 4]]
"""Lengths of the sequences of three batches of different size."""


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def compute_metrics(spec: DataSpec, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the metrics of batches, computed with the task and its meter."""
    task = build_task(spec)
    meter = Meter(task)
    assert meter.metrics is not None
    meter.metrics.set_dtype(torch.float64)
    for outputs, targets in batches:
        meter.add(task.losses(outputs, targets), task.weights(targets))
        meter.update(outputs, targets)
    return {name: float(value) for name, value in meter.compute(CPU).items()}


def macro_f1(predicted: list[int], true: list[int], classes: int) -> float:
    scores = []
    for c in range(classes):
        tp = sum(p == t == c for p, t in zip(predicted, true, strict=True))
        fp = sum(p == c != t for p, t in zip(predicted, true, strict=True))
        fn = sum(t == c != p for p, t in zip(predicted, true, strict=True))
        if tp + fp + fn:
            precision, recall = (tp / (tp + fp) if tp + fp else 0.0), (tp / (tp + fn) if tp + fn else 0.0)
            scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(scores) / len(scores)


@pytest.mark.req("R4")
@pytest.mark.parametrize("cell", ["torch", "textbook"])
def test_regression_metrics_of_sequences_of_different_lengths(cell: str) -> None:
    """MSE, MAE, RMSE, and L = 1/T Σ ‖y_t - ŷ_t‖² of forecasts from input windows of different lengths, read one by one and
    with padding.
    """
    horizon, series = 4, 2
    spec = DataSpec("forecasting", "sequence", (9, 3), (horizon, series))
    torch.manual_seed(0)
    model = GRU(spec, cell=cell, hidden_size=5).double()
    batches, errors = [], []
    for n, lengths in enumerate(LENGTHS):
        x, y = numbers(len(lengths), 9, 3, seed=n), numbers(len(lengths), horizon, series, seed=9 + n)
        batch = SequenceBatch(x, torch.tensor(lengths), y)
        batches.append((model(*batch.inputs).detach(), batch.targets))
        errors += [model(x[b : b + 1, :T])[0].detach() - y[b] for b, T in enumerate(lengths)]
    metrics = compute_metrics(spec, batches)
    flat = [e for error in errors for row in error.tolist() for e in row]
    textbook = sum(sum(sum(e**2 for e in step) for step in error.tolist()) / horizon for error in errors) / len(errors)
    assert metrics["loss"] * series == pytest.approx(textbook, rel=1e-12)  # ours is the mean over the series too
    assert metrics["mse"] == pytest.approx(sum(e**2 for e in flat) / len(flat), rel=1e-12)
    assert metrics["mae"] == pytest.approx(sum(map(abs, flat)) / len(flat), rel=1e-12)
    assert metrics["rmse"] == pytest.approx(math.sqrt(metrics["mse"]), rel=1e-12)


@pytest.mark.req("R4")
@pytest.mark.parametrize(("task", "padding"), [("tagging", IGNORE_INDEX), ("language_modelling", 0)])
def test_loss_and_metrics_per_step_ignore_padding(task: str, padding: int) -> None:
    """L = -1/T Σ_t Σ_c y_{t,c} log ŷ_{t,c} over all valid steps of the split, perplexity, accuracy, F1."""
    spec = DataSpec(
        task, "tokens", (9,), (6,), vocabulary_size=6, padding_id=0 if task == "language_modelling" else None
    )
    batches, logs, predicted, true = [], [], [], []
    for n, lengths in enumerate(LENGTHS):
        outputs = numbers(len(lengths), 9, 6, seed=n)
        targets = torch.randint(1, 6, (len(lengths), 9), generator=torch.Generator().manual_seed(n))
        for b, length in enumerate(lengths):
            targets[b, length:] = padding
            for logits, target in zip(outputs[b, :length].tolist(), targets[b, :length].tolist(), strict=True):
                logs.append(logits[target] - math.log(sum(map(math.exp, logits))))
                predicted.append(max(range(6), key=logits.__getitem__))
                true.append(target)
        batches.append((outputs, targets))
    metrics = compute_metrics(spec, batches)
    assert len(logs) == sum(map(sum, LENGTHS))
    assert metrics["loss"] == pytest.approx(-sum(logs) / len(logs), rel=1e-12)
    assert metrics["accuracy"] == pytest.approx(sum(map(int.__eq__, predicted, true)) / len(true), rel=1e-6)
    if task == "tagging":
        assert metrics["f1"] == pytest.approx(macro_f1(predicted, true, 6), rel=1e-6)
    else:
        assert metrics["perplexity"] == pytest.approx(math.exp(-sum(logs) / len(logs)), rel=1e-12)


@pytest.mark.req("R4")
@pytest.mark.parametrize("cell", ["torch", "textbook"])
def test_classification_metrics_of_sequences_of_different_lengths(cell: str) -> None:
    spec = DataSpec("classification", "tokens", (9,), (3,), vocabulary_size=7, padding_id=0)
    torch.manual_seed(0)
    model = GRU(spec, cell=cell, hidden_size=5, embedding_size=4).double()
    batches, logs, predicted, true = [], [], [], []
    for lengths in LENGTHS:
        x = torch.randint(1, 7, (len(lengths), 9))
        y = torch.randint(3, (len(lengths),))
        for b, length in enumerate(lengths):
            logits = model(x[b : b + 1, :length])[0].tolist()
            logs.append(logits[y[b]] - math.log(sum(map(math.exp, logits))))
            predicted.append(max(range(3), key=logits.__getitem__))
            true.append(int(y[b]))
            x[b, length:] = 0
        batch = LabelledBatch(x, y)
        batches.append((model(*batch.inputs).detach(), batch.targets))
    metrics = compute_metrics(spec, batches)
    assert metrics["loss"] == pytest.approx(-sum(logs) / len(logs), rel=1e-12)
    assert metrics["accuracy"] == pytest.approx(sum(map(int.__eq__, predicted, true)) / len(true), rel=1e-6)
    assert metrics["f1"] == pytest.approx(macro_f1(predicted, true, 3), rel=1e-6)
