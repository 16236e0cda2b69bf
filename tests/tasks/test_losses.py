"""The textbook's losses against their formulas in float64, also for large logits."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.core.data_spec import DataSpec
from src.tasks.factory import build_task

SCALES = [1.0, 20.0]  # of the logits; e^-20 is within the precision of float64, so that the plain formulas hold


def losses_of(task: str, shape: tuple[int, ...], outputs: NDArray, targets: NDArray, smoothing: float = 0.0) -> NDArray:
    losses: Tensor = build_task(DataSpec(task, "vector", (1,), shape)).losses(
        torch.from_numpy(outputs), torch.from_numpy(targets), smoothing
    )
    return losses.numpy()


@pytest.mark.req("M2")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy(scale: float, smoothing: float) -> None:
    """L = -Σ_i y_i log p_i with p = softmax(z); smoothed, y is 1 - ε + ε/C and ε/C."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(50, 6)) * scale, rng.integers(6, size=50)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    target = (1 - smoothing) * np.eye(6)[y] + smoothing / 6
    expected = -(target * np.log(p)).sum(1)
    np.testing.assert_allclose(losses_of("classification", (6,), z, y, smoothing), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.req("M2")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_from_logits(scale: float, smoothing: float) -> None:
    """L = -[y log a + (1 - y) log(1 - a)] with a = σ(z); smoothed, y is 1 - ε/2 and ε/2."""
    rng = np.random.default_rng(0)
    z, y = (rng.normal(size=50) * scale).clip(-30, 30), rng.integers(2, size=50).astype(float)
    target = np.where(y == 1, 1 - smoothing / 2, smoothing / 2)
    log_a, log_rest = -np.log1p(np.exp(-z)), -np.log1p(np.exp(z))
    expected = -(target * log_a + (1 - target) * log_rest)
    np.testing.assert_allclose(
        losses_of("binary_classification", (), z, y, smoothing), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.req("M2")
@pytest.mark.parametrize(("task", "shape"), [("regression", (3,)), ("forecasting", (4, 2))])
def test_mean_squared_error(task: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(50, *shape)), rng.normal(size=(50, *shape))
    expected = [
        sum((a - b) ** 2 for a, b in zip(p.flat, q.flat, strict=True)) / p.size for p, q in zip(z, y, strict=True)
    ]
    np.testing.assert_allclose(losses_of(task, shape, z, y), expected, rtol=1e-12)


@pytest.mark.req("M2")
def test_large_logits_have_a_finite_loss_and_gradient() -> None:
    """The plain formula would take the logarithm of 0."""
    for task, shape, z, y in (
        ("classification", (2,), [[1e4, 0.0]], [1]),
        ("binary_classification", (), [1e4], [0.0]),
    ):
        outputs = torch.tensor(z, requires_grad=True)
        loss = build_task(DataSpec(task, "vector", (1,), shape)).losses(outputs, torch.tensor(y)).sum()  # type: ignore[arg-type]
        loss.backward()
        assert loss.item() == 1e4 and outputs.grad is not None and outputs.grad.abs().max() == 1
