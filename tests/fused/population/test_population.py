"""Members that are trained as one, compared with the same members trained separately."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from src.config.groups import CONF, groups
from src.fused.population.population import Population
from src.models.base import Model
from src.optim.factory import _schedules
from src.optim.schedules import step_scheduler
from tests.fused.population.conftest import Twins, stacked

OPTIMIZERS = groups([CONF])["optimizer"]
MODELS = [name for name in groups([CONF])["model"] if name != "mlp_scratch"]  # which has its own backward pass


def numbers_of(optimizer: str) -> list[list[str]]:
    """Return different values of every numeric setting of an optimizer for each member.

    Learning rates are at most the default: larger ones also amplify the rounding errors of separate runs.
    """
    from src.config.compose import compose

    option = compose(["model=mlp", f"optimizer={optimizer}"]).optimizer
    each: list[list[str]] = [[], [], []]
    for key, value in option.items():
        for member, overrides in enumerate(each):
            if key == "betas":
                overrides.append(f"optimizer.betas=[{value[0] - 0.1 * member},{value[1] - 0.01 * member}]")
            elif key == "weight_decay":
                overrides.append(f"regularization.weight_decay={(0.01, 0.0, 0.1)[member]}")
                overrides.append(f"regularization.decay_norms_and_biases={('true', 'true', 'false')[member]}")
            elif key == "lr":
                overrides.append(f"optimizer.lr={value / (1 + member)}")
            elif isinstance(value, float) and value:
                grows = key in ("eps", "lr_decay", "final_lr", "gamma", "momentum_decay")
                overrides.append(f"optimizer.{key}={value * (1 + member) if grows else value - 0.05 * member}")
    return each


def train(twins: Twins, steps: int, tolerance: float = 1e-10) -> None:
    population = Population(twins.models, twins.optimizers)
    before = [parameter.clone() for parameter in twins.models[0].parameters()]
    for batches in twins.batches(steps):
        losses = population.step(stacked(batches, twins.models[0].spec.padding_id))
        torch.testing.assert_close(losses, twins.step_separately(batches), rtol=tolerance, atol=tolerance)
    twins.assert_equal(tolerance)
    assert all((b != p).any() for b, p in zip(before, twins.models[0].parameters(), strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(twins: Callable[..., Twins], optimizer: str) -> None:
    train(twins("model=mlp", f"optimizer={optimizer}", each=numbers_of(optimizer)), 40)


@pytest.mark.parametrize("model", MODELS)
def test_every_model(twins: Callable[..., Twins], model: str) -> None:
    train(twins(f"model={model}", "optimizer=adamw", each=numbers_of("adamw")), 12)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_pair(twins: Callable[..., Twins], model: str, optimizer: str) -> None:
    train(twins(f"model={model}", f"optimizer={optimizer}", each=numbers_of(optimizer)), 100)


SCHEDULERS = [name for name in groups([CONF])["scheduler"] if name != "none"]
OTHER_RATES = [[f"optimizer.lr={lr}"] for lr in (0.01, 0.02, 0.003)]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_schedule(twins: Callable[..., Twins], scheduler: str) -> None:
    """Each member has the learning rates of its own schedule, which torch writes into its own optimizer."""
    pair = twins(f"scheduler={scheduler}", "scheduler.warmup_steps=4", "optimizer=adamw", each=OTHER_RATES)
    population = Population(pair.models, pair.optimizers)
    pairs = zip(pair.optimizers + pair.separate_optimizers, pair.models + pair.separate, strict=True)
    schedules = [schedules_of(optimizer, model) for optimizer, model in pairs]
    rates = set()
    for number, batches in enumerate(pair.batches(24)):
        losses = population.step(stacked(batches))
        torch.testing.assert_close(losses, pair.step_separately(batches), rtol=1e-10, atol=1e-10)
        for member_schedules in schedules:
            for schedule in member_schedules:
                metric = [1.0] if isinstance(schedule, ReduceLROnPlateau) else []
                step_scheduler(schedule, number + 1, *metric)
        population.rates_changed()
        rates.add(pair.optimizers[0].param_groups[0]["lr"])
    assert len(rates) > 4
    pair.assert_equal(1e-10)


def schedules_of(optimizer: Optimizer, model: Model) -> list[LRScheduler]:
    length = SimpleNamespace(estimated_stepping_batches=24, num_training_batches=24, accumulate_grad_batches=1)
    entries = _schedules(optimizer, model.training_config, length, model.spec.task)  # type: ignore[arg-type]
    return [entry["scheduler"] for entry in entries]


@pytest.mark.parametrize(
    ("overrides", "each"),
    [
        (["model=mlp", "regularization=batch_norm", "optimizer=momentum"], [[], [], []]),
        pytest.param(
            ["model=cnn", "regularization=batch_norm", "optimizer=momentum"], [[], [], []], marks=pytest.mark.slow
        ),
        (["model=mlp"], [[f"regularization.label_smoothing={value}"] for value in (0.0, 0.1, 0.3)]),
        pytest.param(
            ["model=mlp", "datamodule=breast_cancer"],
            [[f"regularization.label_smoothing={v}"] for v in (0.0, 0.1, 0.3)],
            marks=pytest.mark.slow,
        ),
        pytest.param(["model=transformer"], [["regularization.label_smoothing=0.1"]] * 3, marks=pytest.mark.slow),
        (["model=mlp"], [[f"regularization.gradient_clip_norm={value}"] for value in (0.01, "null", 1.0)]),
        (
            ["model=gru"],
            [
                ["regularization.gradient_clip_norm=null", "regularization.gradient_clip_value=0.001"],
                ["regularization.gradient_clip_norm=0.01"],
                ["regularization.gradient_clip_norm=null"],
            ],
        ),
        (["model=mlp"], [["regularization.weight_decay_by_layer={layers.1.*:0.5}"], [], []]),
        (["model=lstm", "model.cell=textbook", "model.num_layers=2"], [[], [], []]),
        pytest.param(
            ["model=gru", "model.cell=textbook", "model.bidirectional=true"], [[], [], []], marks=pytest.mark.slow
        ),
        pytest.param(
            ["model=rnn", "model.num_layers=2", "model.bidirectional=true", "model.initial_state=learned"],
            [[], [], []],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["model=gru", "datamodule=text_classification", "model.num_layers=2"], [[], [], []], marks=pytest.mark.slow
        ),
        pytest.param(
            ["model=lstm", "datamodule=text_classification", "model.bidirectional=true"],
            [[], [], []],
            marks=pytest.mark.slow,
        ),
        pytest.param(["model=lstm", "datamodule=text"], [[], [], []], marks=pytest.mark.slow),
        (["model=lstm", "datamodule=copy"], [[], [], []]),
        pytest.param(
            ["model=transformer", "datamodule=text", "model.norm_first=true"], [[], [], []], marks=pytest.mark.slow
        ),
        pytest.param(
            ["model=transformer", "datamodule=digits", "model.positions=learned"], [[], [], []], marks=pytest.mark.slow
        ),
        pytest.param(["model=mlp", "datamodule=diabetes"], [[], [], []], marks=pytest.mark.slow),
        (
            ["model=mlp", "datamodule=mackey_glass", "model.series=independent", "model.subtract_last=true"],
            [[], [], []],
        ),
    ],
    ids=str,
)
def test_settings_of_models(twins: Callable[..., Twins], overrides: list[str], each: list[list[str]]) -> None:
    train(twins(*overrides, each=each), 20)


@pytest.mark.parametrize(
    ("overrides", "each"),
    [
        ("momentum optimizer.dampening=0.1", ["optimizer.momentum=0.0", "optimizer.momentum=0.5", "optimizer.lr=0.01"]),
        (
            "rmsprop optimizer.centered=true",
            ["optimizer.momentum=0.0", "optimizer.momentum=0.9", "optimizer.alpha=0.8"],
        ),
        ("adam optimizer.amsgrad=true", [f"regularization.weight_decay={value}" for value in (0.0, 0.1, 0.01)]),
        ("adabound optimizer.ams_bound=true optimizer.weight_decouple=true", ["regularization.weight_decay=0.1"] * 3),
        ("nadam optimizer.decoupled_weight_decay=true", ["regularization.weight_decay=0.1"] * 3),
        ("radam optimizer.decoupled_weight_decay=true", ["regularization.weight_decay=0.1"] * 3),
        ("lion optimizer.weight_decouple=false", ["regularization.weight_decay=0.1"] * 3),
        (
            "adagrad optimizer.initial_accumulator_value=0.1",
            [f"optimizer.lr_decay={value}" for value in (0.0, 0.1, 0.2)],
        ),
        ("momentum_textbook optimizer.nesterov=true", [f"optimizer.momentum={value}" for value in (0.9, 0.5, 0.0)]),
    ],
    ids=str,
)
def test_settings_of_optimizers(twins: Callable[..., Twins], overrides: str, each: list[str]) -> None:
    train(twins("model=mlp", *f"optimizer={overrides}".split(), each=[[override] for override in each]), 12)
