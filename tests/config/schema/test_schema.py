"""The schema, conf/ and the classes say the same of every option that is shipped."""

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

Checked: TypeAlias = Callable[[str], Config]
ALL = groups([CONF])
CHOICES = [f"{group}={name}" for group, names in ALL.items() if not group.startswith("hydra") for name in names]
TARGETS = [(group, target) for group, options in SCHEMAS.items() for target in options if target]


@pytest.fixture
def checked(complete: Callable[..., list[str]]) -> Callable[[str], Config]:
    return lambda choice: check(compose(complete(choice)))


def class_of(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def arguments(cls: Any) -> set[str]:
    """Return what a constructor takes, with what it hands on to its base class."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    names = {p.name for p in parameters if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    handed_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return names | (arguments(cls.__mro__[1]) if handed_on else set())


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_is_right(checked: Checked, choice: str) -> None:
    config = checked(choice)
    group, _, name = choice.partition("=")
    if group in SCHEMAS:
        assert getattr(config, group).name == name, "its name is what is typed"


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.partition("=")[0] in SCHEMAS])
def test_every_choice_has_a_schema(checked: Checked, choice: str) -> None:
    """Without one it would be checked only against the signature of its class, which loads torch."""
    option = getattr(checked(choice), choice.partition("=")[0])
    assert type(option) is SCHEMAS[choice.partition("=")[0]][option.target or ""]


@pytest.mark.parametrize("group", SCHEMAS)
def test_every_schema_is_shipped(checked: Checked, group: str) -> None:
    chosen = {getattr(checked(f"{group}={name}"), group).target or "" for name in ALL[group]}
    assert set(SCHEMAS[group]) == chosen


@pytest.mark.parametrize(("group", "target"), TARGETS)
def test_the_schema_has_the_arguments_of_the_class(group: str, target: str) -> None:
    cls, schema = class_of(target), SCHEMAS[group][target]
    ours = set(schema.model_fields) - {"target", "name"}
    theirs = arguments(cls)
    if group == "model":
        assert ours == theirs - {"spec"}
    elif group == "datamodule":
        assert ours - {"default_epochs"} == theirs
    elif group == "scheduler":
        assert ours - {"interval", "warmup_steps"} <= theirs
    else:
        assert ours <= theirs


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
def test_an_option_file_says_what_it_is_in_one_line(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    first = next(line for line in text.splitlines() if "@package" not in line)
    assert first.startswith("# ") and 10 < len(first.removeprefix("# ")) <= 90
    yaml.safe_load(text)


def test_every_pair_of_model_and_data_is_decided(users_files) -> None:
    """A pair composes and is right exactly where the model serves the task and reads the input."""
    from src.config.combinations import model_and_data_problems

    for model in ALL["model"]:
        for data in ALL["datamodule"]:
            cfg = compose([f"model={model}", f"datamodule={data}", *users_files(data)])
            kind, source = SCHEMAS["model"][cfg.model._target_], SCHEMAS["datamodule"][cfg.datamodule._target_]
            fits = source.task in kind.tasks and source.inputs in kind.inputs  # type: ignore[attr-defined]
            if fits:
                assert not list(model_and_data_problems(check(cfg), source.task, source.inputs))  # type: ignore[attr-defined]
            else:
                with pytest.raises(ValueError, match=f"model={model} with datamodule={data}"):
                    check(cfg)
