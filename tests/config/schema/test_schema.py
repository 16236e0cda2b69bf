"""The schemas, conf/ and the classes agree for every shipped option."""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from src.config.compose import compose
from src.config.groups import CONF, groups
from src.config.schema.registry import SCHEMAS
from src.config.schema.run import Config
from src.config.validate import check
from src.tasks.registry import TASKS

Validate: TypeAlias = Callable[[str], Config]
OPTIONS = groups([CONF])
CHOICES = [f"{group}={name}" for group, names in OPTIONS.items() if not group.startswith("hydra") for name in names]
TARGETS = [(group, target) for group, options in SCHEMAS.items() for target in options if target]
RUN_ARGUMENTS = {"data_dir", "write_dir", "fold", "augmentation"}
"""Arguments that the run passes to a datamodule."""
FIXED_ARGUMENTS = {
    "TinyShakespeare": {"path", "memory_share"},
    "Dates": {"tokens", "vocabulary_size", "lowercase", "max_length", "min_frequency"},
    "ETT": {"val_fraction", "test_fraction"},
    "FSDD": {"path", "pattern", "val_path", "test_path", "test_fraction"},
}
"""Arguments of the base class that do not apply to a datamodule."""


@pytest.fixture
def validated(complete: Callable[..., list[str]]) -> Callable[[str], Config]:
    return lambda choice: check(compose(complete(choice)))


def class_of(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def arguments(cls: Any) -> set[str]:
    """Return the arguments of a constructor, with those that it passes to its base class."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    names = {p.name for p in parameters if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    takes_kwargs = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return names | (arguments(cls.__mro__[1]) if takes_kwargs else set())


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_is_valid(validated: Validate, choice: str) -> None:
    config = validated(choice)
    group, _, name = choice.partition("=")
    if group in SCHEMAS:
        assert getattr(config, group).name == name, "the name of an option is the name of its file"


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.partition("=")[0] in SCHEMAS])
def test_every_option_has_a_schema(validated: Validate, choice: str) -> None:
    """Without one it would be checked only against the signature of its class, which loads torch."""
    option = getattr(validated(choice), choice.partition("=")[0])
    assert type(option) is SCHEMAS[choice.partition("=")[0]][option.target or ""]


@pytest.mark.parametrize("group", SCHEMAS)
def test_every_schema_is_shipped(validated: Validate, group: str) -> None:
    targets = {getattr(validated(f"{group}={name}"), group).target or "" for name in OPTIONS[group]}
    assert set(SCHEMAS[group]) == targets


@pytest.mark.parametrize(("group", "target"), TARGETS)
def test_the_schema_has_the_arguments_of_the_class(group: str, target: str) -> None:
    cls, schema = class_of(target), SCHEMAS[group][target]
    fields = set(schema.model_fields) - {"target", "name"}
    parameters = arguments(cls)
    if group == "model":
        assert fields == parameters - arguments(class_of("src.models.base.Model"))
    elif group == "datamodule":
        fixed = FIXED_ARGUMENTS.get(cls.__name__, set())
        assert fields - {"default_epochs"} == parameters - RUN_ARGUMENTS - fixed
    elif group == "scheduler":
        assert fields - {"interval", "warmup_steps"} <= parameters
    else:
        assert fields <= parameters


@pytest.mark.parametrize("target", SCHEMAS["model"])
def test_the_schema_of_a_model_has_its_tasks_and_inputs(target: str) -> None:
    cls, schema = class_of(target), SCHEMAS["model"][target]
    assert set(schema.tasks) == set(cls.tasks) and set(schema.inputs) == set(cls.inputs)  # type: ignore[attr-defined]
    assert set(schema.tasks) <= set(TASKS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", SCHEMAS["datamodule"])
def test_the_schema_of_a_data_source_has_its_task_and_input(target: str) -> None:
    cls, schema = class_of(target), SCHEMAS["datamodule"][target]
    assert (schema.task, schema.inputs) == (cls.task, cls.inputs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", sorted(CONF.glob("*/**/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_option_file_starts_with_a_one_line_summary(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    first = next(line for line in text.splitlines() if "@package" not in line)
    assert first.startswith("# ") and 10 < len(first.removeprefix("# ")) <= 90
    yaml.safe_load(text)


def test_every_pair_of_model_and_data_is_accepted_or_refused(users_files) -> None:
    """A pair is valid if and only if the model supports the task and accepts the kind of input."""
    from src.config.combinations import model_and_data_problems

    for model in OPTIONS["model"]:
        for data in OPTIONS["datamodule"]:
            cfg = compose([f"model={model}", f"datamodule={data}", *users_files(data)])
            model_schema, data_schema = (
                SCHEMAS["model"][cfg.model._target_],
                SCHEMAS["datamodule"][cfg.datamodule._target_],
            )
            compatible = data_schema.task in model_schema.tasks and data_schema.inputs in model_schema.inputs  # type: ignore[attr-defined]
            if compatible:
                assert not list(model_and_data_problems(check(cfg), data_schema.task, data_schema.inputs))  # type: ignore[attr-defined]
            else:
                with pytest.raises(ValueError, match=f"model={model} with datamodule={data}"):
                    check(cfg)
