"""Members that are trained as one against the same members trained one at a time."""

from collections.abc import Callable

import pytest
import torch

from src.config.options import CONF, groups
from src.population.population import Population
from tests.population.conftest import Twins, stacked

OPTIMIZERS = groups([CONF])["optimizer"]
MODELS = [
    name for name in groups([CONF])["model"] if name != "mlp_scratch"
]  # refused: its backward pass is written out


def numbers_of(optimizer: str) -> list[list[str]]:
    """Return other settings of every number of an optimizer for each member."""
    from src.config.compose import compose

    option = compose(["model=mlp", f"optimizer={optimizer}"]).optimizer
    each: list[list[str]] = [[], [], []]
    for key, value in option.items():
        for member, words in enumerate(each):
            if key == "betas":
                words.append(f"optimizer.betas=[{value[0] - 0.1 * member},{value[1] - 0.01 * member}]")
            elif key == "weight_decay":
                words.append(f"regularization.weight_decay={(0.01, 0.0, 0.1)[member]}")
                words.append(f"regularization.decay_norms_and_biases={('true', 'true', 'false')[member]}")
            elif isinstance(value, float) and value:
                grows = key in ("lr", "eps", "lr_decay", "final_lr", "gamma", "momentum_decay")
                words.append(f"optimizer.{key}={value * (1 + member) if grows else value - 0.05 * member}")
    return each


def train(twins: Twins, steps: int, tolerance: float = 1e-10) -> None:
    population = Population(twins.models, twins.optimizers)
    before = [parameter.clone() for parameter in twins.models[0].parameters()]
    for batches in twins.batches(steps):
        losses = population.step(stacked(batches, twins.models[0].spec.padding_id))
        torch.testing.assert_close(losses, twins.step_alone(batches), rtol=tolerance, atol=tolerance)
    twins.assert_equal(tolerance)
    assert all((b != p).any() for b, p in zip(before, twins.models[0].parameters(), strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(twins: Callable[..., Twins], optimizer: str) -> None:
    train(twins("model=mlp", f"optimizer={optimizer}", each=numbers_of(optimizer)), 100)


@pytest.mark.parametrize("model", MODELS)
def test_every_model(twins: Callable[..., Twins], model: str) -> None:
    train(twins(f"model={model}", "optimizer=adamw", each=numbers_of("adamw")), 30)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_pair(twins: Callable[..., Twins], model: str, optimizer: str) -> None:
    train(twins(f"model={model}", f"optimizer={optimizer}", each=numbers_of(optimizer)), 100)
