"""Which jobs of a sweep can be trained as one, told from their frozen configs; torch is not needed for it."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

RATES = ("dropout", "drop_connect", "spatial_dropout", "stochastic_depth")
"""Probabilities that may differ between members, unless they are 0: then the layer that draws is not there."""
KNOBS = (
    "weight_decay",
    "weight_decay_by_layer",
    "decay_norms_and_biases",
    "label_smoothing",
    "gradient_clip_norm",
    "gradient_clip_value",
    "early_stopping_patience",
)
"""Keys of regularization that may differ."""
CALLBACKS = {
    "src.callbacks.early_stopping.EarlyStopping",
    "src.callbacks.checkpoints.Checkpoints",
    "src.callbacks.random_state.RandomState",
    "src.callbacks.predictions.Answers",
    "src.callbacks.progress.Progress",
}
"""Callbacks that a member of a group has as a run of its own."""
OFF = {
    "src.callbacks.weight_averaging.ExponentialMovingAverage": ("decay", 0.0),
    "src.callbacks.weight_averaging.StochasticWeightAveraging": ("start", None),
}
"""Callbacks that a group has only switched off: the setting and its value that do so."""
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
"""Those of `src.fused.population.update_rules`, with the settings that may be true."""
PRECISIONS = ("32-true", "64-true")


@dataclass(frozen=True)
class Plan:
    """What of a sweep is trained as one.

    Args:
        groups: the numbers of the jobs of each group.
        alone: the numbers of the other jobs, by the reason why they run on their own.
    """

    groups: list[list[int]]
    alone: dict[str, list[int]]


def plan(configs: Mapping[int, dict[str, Any]], workers: int, most: int) -> Plan:
    """Put jobs into groups.

    Args:
        configs: of the jobs that are to run, by number.
        workers: how many groups are trained at a time; as many parts are made, so that each has work.
        most: members in a group.
    """
    alone: dict[str, list[int]] = defaultdict(list)
    alike: dict[str, list[int]] = defaultdict(list)
    for number, config in configs.items():
        try:
            why, its_kind = problem(config), kind(config)
        except (KeyError, TypeError, AttributeError):  # of a ledger that was changed; the job itself says what is wrong
            why, its_kind = "its config is not that of a run", ""
        if why:
            alone[why].append(number)
        else:
            alike[its_kind].append(number)
    for numbers in [numbers for numbers in alike.values() if len(numbers) == 1]:
        alone["no other job differs from it only in what can be fused"] += numbers
    groups = [numbers for numbers in alike.values() if len(numbers) > 1]
    share = -(-sum(map(len, groups)) // workers)
    parts = [part for numbers in groups for part in _parts(numbers, max(2, min(share, most)))]
    return Plan(sorted(parts, key=len, reverse=True), dict(alone))


def _parts(numbers: Sequence[int], most: int) -> list[list[int]]:
    """Cut a group into equal parts of at most so many members, and at least two."""
    count = min(-(-len(numbers) // most), len(numbers) // 2)
    ends = [len(numbers) * part // count for part in range(count + 1)]
    return [list(numbers[start:end]) for start, end in pairwise(ends)]


def problem(config: Mapping[str, Any]) -> str | None:
    """Say why a job cannot be trained together with any other; None where it can."""
    trainer, knobs = config["trainer"], config["regularization"]
    if trainer["devices"] not in (1, "1", "auto") or trainer["num_nodes"] != 1 or trainer["strategy"] != "auto":
        return "it trains on several devices"
    for key, plain in (
        ("accumulate_grad_batches", 1),
        ("max_time", None),
        ("profiler", None),
        ("detect_anomaly", False),
        ("loop", "auto"),
    ):
        if trainer[key] != plain:
            return f"trainer.{key}={trainer[key]}"
    if trainer["precision"] not in PRECISIONS:
        return f"trainer.precision={trainer['precision']}"
    if loggers := [key for key, entry in config["logger"].items() if entry is not None and key != "wandb"]:
        return f"logger={loggers[0]} is not known to a group (logger=wandb or logger=none would let them be fused)"
    for key, entry in config["callbacks"].items():
        if entry is not None and (why := _callback_problem(entry)):
            return f"callbacks.{key}{why}"
    for key in ("ema_decay", "mixup_alpha", "cutmix_alpha", "swa_start"):
        if knobs[key]:
            return f"regularization.{key}={knobs[key]}"
    changes = [knobs["augmentation"], {**knobs["audio"], "probability": 0}, {"p": knobs["back_translation"]["forward"]}]
    if any(value for settings in changes for value in settings.values()) or knobs["synonyms"]["probability"]:
        return "its examples are changed at random"
    if config["datamodule"].get("carry_state"):
        return "datamodule.carry_state=true"
    if config["model"].get("checkpoint_activations"):
        return "model.checkpoint_activations=true"
    return _optimizer_problem(config["optimizer"])


def _optimizer_problem(settings: Mapping[str, Any]) -> str | None:
    target = settings.get("_target_")
    if target not in OPTIMIZERS:
        return f"optimizer._target_={target} has no formula for several members"
    known = OPTIMIZERS[target] | {"foreach"}
    return next(
        (f"optimizer.{key}=true" for key, value in settings.items() if value is True and key not in known), None
    )


def _callback_problem(entry: Mapping[str, Any]) -> str | None:
    target = entry.get("_target_")
    if target in OFF:
        setting, off = OFF[target]
        return None if entry.get(setting, off) == off else f".{setting}={entry[setting]}"
    return None if target in CALLBACKS else " is not known to a group"


def kind(config: Mapping[str, Any]) -> str:
    """Return what two configs share that differ only in what can be fused."""
    own = ("seed", "scheduler", "tags", "notes", "resume", "logger")
    kept = {key: value for key, value in config.items() if key not in own}
    kept["datamodule"] = {key: value for key, value in config["datamodule"].items() if key != "seed"}
    kept["model"] = _rates(config["model"])
    kept["optimizer"] = {key: _without_numbers(value) for key, value in config["optimizer"].items()}
    knobs = {key: value for key, value in config["regularization"].items() if key not in KNOBS}
    kept["regularization"] = _rates(knobs)
    callbacks = config["callbacks"]
    kept["callbacks"] = {
        key: {name: value for name, value in (entry or {}).items() if (key, name) != ("early_stopping", "patience")}
        for key, entry in callbacks.items()
    }
    return json.dumps(kept, sort_keys=True)


def _rates(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: bool(value) if key in RATES else value for key, value in settings.items()}


def _without_numbers(value: Any) -> Any:
    """Return a setting of an optimizer without the numbers that it may hold."""
    if isinstance(value, list):
        return [_without_numbers(item) for item in value]
    return "a number" if isinstance(value, int | float) and not isinstance(value, bool) else value


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which configs differ, such as ``optimizer.lr``, as a person would write them."""
    found: dict[str, None] = {}

    def look(parts: Sequence[Any], path: str) -> None:
        if all(isinstance(part, dict) for part in parts):
            for key in dict.fromkeys(key for part in parts for key in part):
                look([part.get(key) for part in parts], f"{path}.{key}" if path else key)
        elif any(part != parts[0] for part in parts[1:]):
            found[path] = None

    look(configs, "")
    return list(found)
