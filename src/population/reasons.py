"""Which runs can be trained as one, told from their configs alone, before torch is loaded."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from src.config.schema import Config

RATES = ("dropout", "drop_connect", "spatial_dropout", "stochastic_depth")

FREE = (
    "seed",
    "tags",
    "notes",
    "datamodule.seed",
    "optimizer.*",
    "scheduler.*",
    *(f"model.{rate}" for rate in RATES),
    *(f"regularization.{rate}" for rate in RATES),
    "regularization.weight_decay",
    "regularization.weight_decay_by_layer*",
    "regularization.decay_norms_and_biases",
    "regularization.label_smoothing",
    "regularization.gradient_clip_norm",
    "regularization.gradient_clip_value",
    "regularization.early_stopping_patience",
    "callbacks.*",
    "logger.*",
    "paths.*",
    "search*",
    "sweep*",
)
"""Patterns of the keys in which members may differ. Of an optimizer only the numbers: its class and what is true or false
must be the same."""


def reason(configs: Sequence[Config]) -> str | None:
    """Say why runs cannot be trained as one; None where, for all that their configs tell, they can.

    Args:
        configs: checked configs, one a member.
    """
    problems = (problem for config in configs for problem in _own_problems(config))
    return next(problems, None) or next(_differences(configs), None)


def _own_problems(config: Config) -> Iterator[str]:
    """Say what a run asks for that is not done for several members at once."""
    knobs, trainer = config.regularization, config.trainer
    if config.model.target == "src.models.mlp_scratch.MlpScratch":
        yield "model=mlp_scratch writes its backward pass out, for one network"
    if trainer.accumulate_grad_batches > 1:
        yield f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches} adds gradients up"
    if trainer.precision not in ("32-true", "64-true"):
        yield f"trainer.precision={trainer.precision}: only 32-true and 64-true"
    if trainer.strategy != "auto":
        yield f"trainer.strategy={trainer.strategy} trains on several devices"
    for key in ("mixup_alpha", "cutmix_alpha"):
        if value := getattr(knobs, key):
            yield f"regularization.{key}={value} mixes the examples of a batch"
    if chosen := knobs.augmentation.chosen():
        yield f"regularization.augmentation.{next(iter(chosen))} changes every batch anew"
    if knobs.ema_decay or knobs.swa_start is not None:
        key = "ema_decay" if knobs.ema_decay else "swa_start"
        yield f"regularization.{key}={getattr(knobs, key)} averages weights"
    if getattr(config.datamodule, "carry_state", False):
        yield "datamodule.carry_state=true carries a state from batch to batch"


def _differences(configs: Sequence[Config]) -> Iterator[str]:
    """Say in which keys runs differ that must not."""
    first = _flat(configs[0].plain())
    for config in configs[1:]:
        other = _flat(config.plain())
        for key in sorted(first.keys() | other.keys()):
            one, two = first.get(key), other.get(key)
            if one != two and not _is_free(key, one, two):
                yield f"{key} differs: {one} and {two}"


def _is_free(key: str, one: Any, two: Any) -> bool:
    if key.startswith("optimizer."):
        return all(isinstance(value, int | float | list) and not isinstance(value, bool) for value in (one, two))
    return any(fnmatchcase(key, pattern) for pattern in FREE)


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
