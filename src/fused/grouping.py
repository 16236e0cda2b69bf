"""Group the jobs of a sweep that can be trained as one model, from their frozen configs; torch is not needed."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

DROPOUT_RATES = ("dropout", "drop_connect", "spatial_dropout", "stochastic_depth")
"""Probabilities that may differ between members if all are above 0: at 0 the model lacks the layer."""
REGULARIZATION_NUMBERS = (
    "weight_decay",
    "weight_decay_by_layer",
    "decay_norms_and_biases",
    "label_smoothing",
    "gradient_clip_norm",
    "gradient_clip_value",
    "early_stopping_patience",
)
"""Keys of regularization that may differ between members."""
SUPPORTED_CALLBACKS = {
    "src.callbacks.early_stopping.EarlyStopping",
    "src.callbacks.checkpoints.Checkpoints",
    "src.callbacks.random_state.RandomState",
    "src.callbacks.predictions.Predictions",
    "src.callbacks.progress.Progress",
}
"""Callbacks that work for a member of a group as in a separate run."""
DISABLED_CALLBACKS = {
    "src.callbacks.weight_averaging.ExponentialMovingAverage": ("decay", 0.0),
    "src.callbacks.weight_averaging.StochasticWeightAveraging": ("start", None),
}
"""Callbacks that a group supports only when they are off: the setting, and the value that turns them off."""
OPTIMIZERS: dict[str, set[str]] = {
    "torch.optim.SGD": {"nesterov"},
    "torch.optim.Adam": {"amsgrad", "decoupled_weight_decay"},
    "torch.optim.AdamW": {"amsgrad", "decoupled_weight_decay"},
    "torch.optim.Adamax": set(),
    "torch.optim.NAdam": {"decoupled_weight_decay"},
    "torch.optim.RAdam": {"decoupled_weight_decay"},
    "torch.optim.Adagrad": set(),
    "torch.optim.Adadelta": set(),
    "torch.optim.RMSprop": {"centered"},
    "pytorch_optimizer.AdaBound": {"ams_bound", "weight_decouple"},
    "pytorch_optimizer.Lion": {"weight_decouple"},
    "src.optim.textbook.Momentum": {"nesterov"},
    "src.optim.textbook.Adagrad": set(),
    "src.optim.textbook.RMSprop": set(),
}
"""Optimizers that `src.fused.population.update_rules` implements, with the flags that may be true."""
PRECISIONS = ("32-true", "64-true")


@dataclass(frozen=True)
class Plan:
    """Assignment of the jobs of a sweep to groups.

    Args:
        groups: numbers of the jobs of each group.
        unfused: numbers of the other jobs, by the reason why they are not fused.
    """

    groups: list[list[int]]
    unfused: dict[str, list[int]]


def plan_groups(configs: Mapping[int, dict[str, Any]], workers: int, max_members: int) -> Plan:
    """Put jobs into groups.

    Args:
        configs: configs of the jobs to run, by number.
        workers: how many groups are trained at a time; groups are split so that each worker has one.
        max_members: maximum number of members of a group.
    """
    unfused: dict[str, list[int]] = defaultdict(list)
    jobs_by_key: dict[str, list[int]] = defaultdict(list)
    for number, config in configs.items():
        try:
            reason, key = fusion_problem(config), group_key(config)
        except (KeyError, TypeError, AttributeError):  # the ledger was modified; the job itself reports what is wrong
            reason, key = "its config is not the config of a run", ""
        if reason:
            unfused[reason].append(number)
        else:
            jobs_by_key[key].append(number)
    groups = []
    for numbers in jobs_by_key.values():
        if len(numbers) == 1:
            unfused["no other job differs from it only in settings that can be fused"] += numbers
        else:
            groups.append(numbers)
    share = -(-sum(map(len, groups)) // workers)
    parts = [part for numbers in groups for part in _split(numbers, max(2, min(share, max_members)))]
    return Plan(sorted(parts, key=len, reverse=True), dict(unfused))


def _split(numbers: Sequence[int], max_members: int) -> list[list[int]]:
    """Split a group into equal parts of at least two and, if possible, at most `max_members` members."""
    count = min(-(-len(numbers) // max_members), len(numbers) // 2)
    ends = [len(numbers) * part // count for part in range(count + 1)]
    return [list(numbers[start:end]) for start, end in pairwise(ends)]


def fusion_problem(config: Mapping[str, Any]) -> str | None:
    """Return why a job cannot be fused with any other; None if it can."""
    trainer, knobs = config["trainer"], config["regularization"]
    if trainer["devices"] not in (1, "1", "auto") or trainer["num_nodes"] != 1 or trainer["strategy"] != "auto":
        return "it trains on several devices"
    for key, supported in (
        ("accumulate_grad_batches", 1),
        ("max_time", None),
        ("profiler", None),
        ("detect_anomaly", False),
        ("loop", "auto"),
    ):
        if trainer[key] != supported:
            return f"trainer.{key}={trainer[key]}"
    if trainer["precision"] not in PRECISIONS:
        return f"trainer.precision={trainer['precision']}"
    if loggers := [key for key, entry in config["logger"].items() if entry is not None and key != "wandb"]:
        return f"logger={loggers[0]} is not supported in fused training (use logger=wandb or logger=none)"
    for key, entry in config["callbacks"].items():
        if entry is not None and (problem := _callback_problem(entry)):
            return f"callbacks.{key}{problem}"
    for key in ("ema_decay", "mixup_alpha", "cutmix_alpha", "swa_start"):
        if knobs[key]:
            return f"regularization.{key}={knobs[key]}"
    augmentations = [
        knobs["augmentation"],
        {**knobs["audio"], "probability": 0},
        {"p": knobs["back_translation"]["forward"]},
    ]
    if any(value for settings in augmentations for value in settings.values()) or knobs["synonyms"]["probability"]:
        return "its examples are augmented at random"
    if config["datamodule"].get("stateful"):
        return "datamodule.stateful=true"
    if config["model"].get("checkpoint_activations"):
        return "model.checkpoint_activations=true"
    return _optimizer_problem(config["optimizer"])


def _optimizer_problem(settings: Mapping[str, Any]) -> str | None:
    target = settings.get("_target_")
    if target not in OPTIMIZERS:
        return f"optimizer._target_={target} is not supported in fused training"
    supported_flags = OPTIMIZERS[target] | {"foreach"}
    return next(
        (f"optimizer.{key}=true" for key, value in settings.items() if value is True and key not in supported_flags),
        None,
    )


def _callback_problem(entry: Mapping[str, Any]) -> str | None:
    target = entry.get("_target_")
    if target in DISABLED_CALLBACKS:
        setting, off = DISABLED_CALLBACKS[target]
        return None if entry.get(setting, off) == off else f".{setting}={entry[setting]}"
    return None if target in SUPPORTED_CALLBACKS else " is not supported in fused training"


def group_key(config: Mapping[str, Any]) -> str:
    """Return a key that two configs share if they differ only in settings that can be fused."""
    may_differ = ("seed", "scheduler", "tags", "notes", "resume", "logger")
    alike = {key: value for key, value in config.items() if key not in may_differ}
    alike["datamodule"] = {key: value for key, value in config["datamodule"].items() if key != "seed"}
    alike["model"] = _without_rates(config["model"])
    alike["optimizer"] = {key: _without_numbers(value) for key, value in config["optimizer"].items()}
    knobs = {key: value for key, value in config["regularization"].items() if key not in REGULARIZATION_NUMBERS}
    alike["regularization"] = _without_rates(knobs)
    callbacks = config["callbacks"]
    alike["callbacks"] = {
        key: {name: value for name, value in (entry or {}).items() if (key, name) != ("early_stopping", "patience")}
        for key, entry in callbacks.items()
    }
    return json.dumps(alike, sort_keys=True)


def _without_rates(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: bool(value) if key in DROPOUT_RATES else value for key, value in settings.items()}


def _without_numbers(value: Any) -> Any:
    """Return a setting of an optimizer with its numbers replaced."""
    if isinstance(value, list):
        return [_without_numbers(item) for item in value]
    return "a number" if isinstance(value, int | float) and not isinstance(value, bool) else value


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which configs differ, such as ``optimizer.lr``."""
    paths: dict[str, None] = {}

    def compare(parts: Sequence[Any], path: str) -> None:
        if all(isinstance(part, dict) for part in parts):
            for key in dict.fromkeys(key for part in parts for key in part):
                compare([part.get(key) for part in parts], f"{path}.{key}" if path else key)
        elif any(part != parts[0] for part in parts[1:]):
            paths[path] = None

    compare(configs, "")
    return list(paths)
