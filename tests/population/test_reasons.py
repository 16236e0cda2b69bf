"""Why runs cannot be trained as one, told from their configs."""

from collections.abc import Callable
from functools import cache

import pytest

from src.config.check import check
from src.config.compose import compose
from src.config.schema import Config
from src.population.reasons import reason


@cache
def config(words: tuple[str, ...]) -> Config:
    return check(compose(words))


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (["seed=1"], ["seed=2"], None),
        (["optimizer.lr=0.1"], ["optimizer.betas=[0.5,0.9]", "optimizer.eps=0.1"], None),
        (["regularization=[dropout,l2,label_smoothing,gradient_clipping]"], [], None),
        (["scheduler=cosine"], ["scheduler=step"], None),
        ([], ["optimizer=adamw"], "optimizer._target_ differs: torch.optim.Adam and torch.optim.AdamW"),
        ([], ["optimizer.amsgrad=true"], "optimizer.amsgrad differs: False and True"),
        ([], ["model.activation=relu"], "model.activation differs: tanh and relu"),
        ([], ["datamodule.batch_size=16"], "datamodule.batch_size differs"),
        (["trainer.accumulate_grad_batches=2"], [], "trainer.accumulate_grad_batches=2 adds gradients up"),
        ([], ["trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed"),
        (["regularization=mixup"], [], "regularization.mixup_alpha=0.2 mixes"),
        ([], ["regularization=augmentation"], "regularization.augmentation.rotation"),
        ([], ["regularization=ema"], "regularization.ema_decay"),
        (["model=mlp_scratch"], [], "model=mlp_scratch"),
        (
            ["model=lstm", "datamodule=tiny_shakespeare", "datamodule.carry_state=true"],
            [],
            "datamodule.carry_state=true",
        ),
    ],
    ids=str,
)
def test_the_reason_names_the_key_and_the_value(
    complete: Callable[..., list[str]], one: list[str], other: list[str], why: str | None
) -> None:
    found = reason([config(tuple(complete(*words))) for words in (one, other)])
    assert found is None if why is None else found is not None and found.startswith(why)
