"""Checks that options of different groups are compatible, without loading torch or data."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from src.config.schema.base import Option
from src.config.schema.datamodule import DataOption
from src.config.schema.registry import SCHEMAS
from src.config.schema.run import Config
from src.config.schema.scheduler import InverseSqrt
from src.core.errors import nearest, option_name
from src.tasks.registry import TASKS, direction


def combination_problems(config: Config) -> list[str]:
    """Return one line for each incompatible pair of choices, with the valid alternatives."""
    return [
        *model_and_data_problems(config, config.datamodule.task, config.datamodule.inputs),
        *_knobs_of_the_model(config),
        *_carried_state(config),
        *_knobs_of_the_task(config),
        *_optimization(config),
        *_averaging(config),
        *_monitor(config),
        *_cross_validation(config),
        *_trainer(config),
    ]


def monitor_of(config: Config, task: str) -> tuple[str, str]:
    """Return the metric that selects the best epoch, and its direction, ``min`` or ``max``."""
    monitor = config.monitor or TASKS[task].monitor
    return monitor, direction(task, monitor)


def model_and_data_problems(config: Config, task: str | None, inputs: str | None) -> Iterator[str]:
    """Yield why a model cannot train on data of a task and kind of input, and the compatible models and data."""
    model, data = config.model, config.datamodule
    pair = f"model={model.name} with datamodule={data.name}"
    models = f"Models for {task} of {inputs}: {_listed('model', lambda s: task in s.tasks and inputs in s.inputs)}."
    others = _listed("datamodule", lambda s: s.task in model.tasks and s.inputs in model.inputs)
    choices = f"{models} Data for {model.name}: {others}."
    if task and task not in TASKS:
        yield f"datamodule={data.name} declares the task '{task}'. {nearest(task, TASKS)}"
    elif task and task not in model.tasks:
        yield f"{pair}: the task of the data is {task}, and {model.name} supports {', '.join(model.tasks)}. {choices}"
    elif inputs and inputs not in model.inputs:
        yield f"{pair}: the kind of input is {inputs}, and {model.name} accepts {', '.join(model.inputs)}. {choices}"
    elif task and task != "forecasting":
        for key, value in (("series", "independent"), ("subtract_last", True)):
            if getattr(model, key, None) == value:
                allowed = _listed("datamodule", lambda s: s.task == "forecasting" and s.inputs in model.inputs)
                yield f"model.{key}={str(value).lower()} is for forecasting, and {data.name} is {task}. Data: {allowed}."


def _has_field(name: str, option: type[Option]) -> bool:
    return name in option.model_fields


def _is_raw(kind: str, option: type[DataOption]) -> bool:
    return option.raw == kind


def _listed(group: str, fits: Callable[[Any], bool]) -> str:
    names = [option_name(target) for target, option in SCHEMAS[group].items() if fits(option)]
    return ", ".join(names) or "none yet"


def _knobs_of_the_model(config: Config) -> Iterator[str]:
    """Yield the knobs that no layer of the model uses, which would silently be ignored."""
    for knob in ("dropout", "drop_connect", "spatial_dropout", "stochastic_depth", "batch_norm"):
        supported = knob in type(config.model).model_fields or knob in config.model.built_in
        if getattr(config.regularization, knob) and not supported:
            models = _listed("model", partial(_has_field, knob))
            yield f"regularization.{knob} is not supported by model={config.model.name}. Models with it: {models}."
    if config.regularization.batch_norm and config.datamodule.batch_size == 1:
        yield "regularization.batch_norm normalises over a batch: datamodule.batch_size must be 2 or more, and is 1."


def _knobs_of_the_task(config: Config) -> Iterator[str]:
    knobs, data = config.regularization, config.datamodule
    if data.task is None or data.task not in TASKS:
        return
    task_info = TASKS[data.task]
    if knobs.label_smoothing and not task_info.label_smoothing:
        tasks = ", ".join(name for name, task in TASKS.items() if task.label_smoothing)
        yield f"regularization.label_smoothing smooths classes, and {data.name} is {data.task}. Tasks with it: {tasks}."
    if knobs.mixup_alpha and (not task_info.mixing or data.inputs == "tokens"):
        tasks = ", ".join(name for name, task in TASKS.items() if task.mixing)
        yield f"regularization.mixup_alpha cannot mix {data.inputs} of {data.task}. It mixes numbers, for: {tasks}."
    if knobs.cutmix_alpha and data.inputs != "image":
        yield f"regularization.cutmix_alpha pastes parts of images, and an input of {data.name} is a {data.inputs}."
    if knobs.augmentation.enabled() and data.inputs != "image":
        yield f"regularization.augmentation transforms images, and an input of {data.name} is a {data.inputs}."
    for kind, keys in knobs.enabled_example_augmentation().items():
        if keys and data.raw != kind:
            datamodules = _listed("datamodule", partial(_is_raw, kind))
            yield f"{keys[0]} changes the raw {kind} of examples, and {data.name} has none. Data with it: {datamodules}."


def _carried_state(config: Config) -> Iterator[str]:
    if not getattr(config.datamodule, "stateful", False):
        return
    if not config.model.supports_stateful:
        models = _listed("model", lambda s: s.supports_stateful)
        yield f"datamodule.stateful=true: model={config.model.name} has no hidden state. Models with one: {models}."
    elif getattr(config.model, "bidirectional", False):
        yield (
            "datamodule.stateful=true: model.bidirectional=true also reads from the end, so its state cannot be passed to "
            "the next window."
        )


def _optimization(config: Config) -> Iterator[str]:
    name, knobs = config.optimizer.name, config.regularization
    if "weight_decay" not in type(config.optimizer).model_fields:
        for key in ("weight_decay", "weight_decay_by_layer"):
            if value := getattr(knobs, key):
                yield f"regularization.{key}={value}: optimizer={name} has no weight decay."
    elif (decay := config.optimizer.arguments()["weight_decay"] or 0.0) != knobs.weight_decay != 0.0:
        yield (
            f"optimizer.weight_decay={decay} and regularization.weight_decay={knobs.weight_decay} contradict each "
            "other: set both alike, or the first to ${regularization.weight_decay} in the option's file."
        )
    highest = getattr(config.optimizer, "lr", None)
    for key in ("eta_min", "min_lr"):
        lowest = getattr(config.scheduler, key, None)
        if highest is not None and lowest is not None and lowest > highest:
            yield f"scheduler.{key}={lowest} is the lowest rate of the schedule, and must not be above optimizer.lr={highest}."
    if isinstance(config.scheduler, InverseSqrt) and not config.scheduler.warmup_steps:
        yield f"scheduler={config.scheduler.name} is defined by its warm-up: scheduler.warmup_steps must be 1 or more."


def _averaging(config: Config) -> Iterator[str]:
    knobs = config.regularization
    averages = [("ema", f"ema_decay={knobs.ema_decay}")] if knobs.ema_decay else []
    averages += [("swa", f"swa_start={knobs.swa_start}")] if knobs.swa_start is not None else []
    for key, knob in averages:
        if config.callbacks.get(key) is None:
            yield f"regularization.{knob}: callbacks.{key} averages weights and is left out; callbacks=default has it."
        if config.trainer.strategy == "fsdp":
            yield (
                f"regularization.{knob}: averaging needs the whole weights, and trainer.strategy=fsdp shards them over the "
                "devices. On several devices: trainer.strategy=ddp."
            )
        if config.trainer.precision == "bf16-true":
            yield (
                f"regularization.{knob}: the weights of trainer.precision=bf16-true have three digits, and small steps of an "
                "average are lost: bf16-mixed or 32-true."
            )


def _monitor(config: Config) -> Iterator[str]:
    task = config.datamodule.task
    if config.monitor is None or task is None or task not in TASKS:
        return
    allowed = [f"{split}/{name}" for split in ("val", "train") for name in TASKS[task].metrics]
    allowed = [name for name in allowed if name.startswith("val/") or name == "train/loss"]
    if config.monitor not in allowed:
        yield f"monitor={config.monitor}: {nearest(config.monitor, allowed)}"


def _cross_validation(config: Config) -> Iterator[str]:
    settings = config.cross_validation
    if settings.folds is None:
        for key in ("fold", "group"):
            if (value := getattr(settings, key)) is not None:
                yield f"cross_validation.{key}={value}: set the number of folds too, such as cross_validation.folds=5"
    elif settings.fold is None:
        yield (
            f"cross_validation.folds={settings.folds}: one run validates on one of the folds, such as "
            f"cross_validation.fold=1; -m cross_validation.folds={settings.folds} trains them all"
        )
    elif settings.fold > settings.folds:
        yield f"cross_validation.fold={settings.fold}: must be from 1 to {settings.folds} (cross_validation.folds)"


def _trainer(config: Config) -> Iterator[str]:
    trainer = config.trainer
    if trainer.strategy == "fsdp" and trainer.accelerator == "cpu":
        yield "trainer.strategy=fsdp needs GPUs. On a CPU: trainer.strategy=ddp or auto."
    if trainer.strategy == "fsdp" and config.regularization.gradient_clip_norm is not None:
        yield (
            "trainer.strategy=fsdp cannot clip by norm, because each device holds a part of the gradient: set "
            "regularization.gradient_clip_norm=null, or use gradient_clip_value"
        )
    if trainer.precision == "16-mixed" and trainer.accelerator == "cpu":
        yield "trainer.precision=16-mixed needs a GPU. On a CPU: 32-true, bf16-mixed, 64-true."
