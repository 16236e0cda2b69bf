"""Jobs that form a group, and reasons why others do not."""

from collections.abc import Callable
from typing import Any

import pytest
from torch.optim import Optimizer

from src.config.compose import compose
from src.config.locate import locate
from src.config.validate import check
from src.fused.grouping import OPTIMIZERS, differing_keys, fusion_problem, group_key, plan_groups

Overrides = Callable[..., list[str]]


@pytest.fixture
def config() -> Callable[..., dict[str, Any]]:
    return lambda *overrides: check(compose(["logger=none", "trainer=cpu", *overrides])).plain()


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0.1",
        "optimizer.betas=[0.8,0.99]",
        "optimizer.eps=1e-6",
        "regularization.weight_decay=0.1",
        "regularization.label_smoothing=0.1",
        "regularization.gradient_clip_norm=1.0",
        "regularization.early_stopping_patience=3",
        "scheduler=step",
        "scheduler.warmup_steps=5",
        "seed=7",
        "tags=[a]",
        "logger=wandb",
    ],
)
def test_numbers_may_differ_within_a_group(config: Callable[..., dict[str, Any]], override: str) -> None:
    one, other = config(), config(override)
    assert one != other and group_key(one) == group_key(other)
    assert plan_groups({1: one, 2: other}, 1, 64).groups == [[1, 2]]


def test_dropout_rates_above_zero_may_differ(config: Callable[..., dict[str, Any]]) -> None:
    rates = [config(f"regularization.dropout={rate}") for rate in (0, 0.1, 0.3)]
    assert group_key(rates[1]) == group_key(rates[2]) != group_key(rates[0])


@pytest.mark.parametrize(
    "override",
    [
        "model.hidden_sizes=[32]",
        "model.activation=relu",
        "datamodule.batch_size=32",
        "optimizer=adamw",
        "optimizer.amsgrad=true",
        "trainer.max_epochs=3",
        "monitor=val/accuracy",
        "callbacks.early_stopping.min_delta=0.1",
    ],
)
def test_shapes_and_classes_may_not_differ(config: Callable[..., dict[str, Any]], override: str) -> None:
    assert group_key(config()) != group_key(config(override))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["trainer.devices=2"], "several devices"),
        (["trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches=2"),
        (["trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed"),
        (["trainer.max_time=00:00:00:10"], "trainer.max_time=00:00:00:10"),
        (["regularization=ema"], "ema"),
        (["regularization=mixup"], "regularization.mixup_alpha"),
        (["regularization=augmentation"], "augmented at random"),
        (["callbacks=gradients"], "callbacks.gradients"),
        (["logger=csv"], "logger=csv"),
        (["model=resnet", "model.checkpoint_activations=true"], "model.checkpoint_activations=true"),
    ],
)
def test_unsupported_setting_is_not_fused(
    config: Callable[..., dict[str, Any]], overrides: list[str], reason: str
) -> None:
    assert reason in str(fusion_problem(config(*overrides)))
    assert fusion_problem(config()) is None


@pytest.mark.parametrize(
    ("sizes", "workers", "parts"),
    [((64,), 2, [32, 32]), ((64,), 1, [64]), ((3,), 2, [3]), ((200,), 1, [50] * 4), ((40, 8), 2, [20, 20, 8])],
)
def test_every_worker_gets_a_group(
    config: Callable[..., dict[str, Any]], sizes: tuple[int, ...], workers: int, parts: list[int]
) -> None:
    bases = [config(), config("model.activation=relu")]
    configs = [base for base, size in zip(bases, sizes, strict=False) for _ in range(size)]
    plan = plan_groups(dict(enumerate(configs)), workers, 64)
    assert [len(group) for group in plan.groups] == parts
    assert sorted(number for group in plan.groups for number in group) == list(range(sum(sizes)))


def test_single_job_forms_no_group(config: Callable[..., dict[str, Any]]) -> None:
    plan = plan_groups({1: config(), 2: config("model.activation=relu"), 3: config("callbacks=gradients")}, 2, 64)
    assert plan.groups == [] and sorted(number for numbers in plan.unfused.values() for number in numbers) == [1, 2, 3]


def test_differing_keys() -> None:
    assert differing_keys([{"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 2, "c": 2}, "d": 4}]) == ["a.b", "d"]


def test_supported_optimizers_have_an_update_rule() -> None:
    from src.fused.population.update_rules import RULES, rule_of

    assert {target: set(rule.flags) for target, rule in RULES.items()} == OPTIMIZERS
    for target, rule in RULES.items():
        assert rule_of(locate(target, Optimizer, "optimizer")) is rule
    assert rule_of(Optimizer) is None


@pytest.mark.parametrize("change", [{"fused": True}, {"maximize": True}, {"_target_": "torch.optim.ASGD"}])
def test_unsupported_optimizer_is_named_before_training(
    config: Callable[..., dict[str, Any]], change: dict[str, Any]
) -> None:
    plain = config()
    ((key, value),) = change.items()
    assert f"optimizer.{key}={str(value).replace('True', 'true')}" in str(
        fusion_problem(plain | {"optimizer": plain["optimizer"] | change})
    )
