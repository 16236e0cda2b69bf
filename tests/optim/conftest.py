"""Fixture that optimizes a vector with any option of `optimizer`, for the properties that the textbook states."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.optim.factory import build_optimizer

Vector = np.ndarray
Gradient = Callable[[int, Vector], Vector | float]
Descend = Callable[..., Vector]


@cache
def _config(*overrides: str) -> Config:
    return check(compose(["model=mlp", *overrides]))


@pytest.fixture
def descent_path() -> Descend:
    """Return a function that optimizes θ in float64 for a number of steps, and returns θ [steps + 1, D] before the first and
    after each step. The gradient is a function of (t, θ), t counted from 1; `rates` are the learning rates of the steps.
    """

    def path(
        overrides: str, gradient: Gradient, steps: int, start: Vector | float = 0.0, rates: Vector | None = None
    ) -> Vector:
        model = nn.Module()
        model.theta = nn.Parameter(torch.tensor(np.atleast_1d(start), dtype=torch.float64))
        optimizer = build_optimizer(model, _config(*overrides.split()))
        thetas = [model.theta.detach().numpy().copy()]
        for t in range(1, steps + 1):
            if rates is not None:
                optimizer.param_groups[0]["lr"] = rates[t - 1]
            model.theta.grad = torch.tensor(np.broadcast_to(gradient(t, thetas[-1]), thetas[-1].shape).copy())
            optimizer.step()
            thetas.append(model.theta.detach().numpy().copy())
        return np.array(thetas)

    return path
