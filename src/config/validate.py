"""Validate a whole config, its types, ranges and combinations, before any work starts."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from src.config.combinations import combination_problems
from src.config.locate import locate
from src.config.schema.base import Entry, EntryWithoutClass, Option, Section
from src.config.schema.callbacks import ENTRIES
from src.config.schema.datamodule import DataOption
from src.config.schema.from_signature import schema_of_class
from src.config.schema.logger import WeightsAndBiases
from src.config.schema.model import ModelOption
from src.config.schema.registry import SCHEMAS
from src.config.schema.run import Config
from src.config.schema.scheduler import SchedulerOption
from src.config.schema.search import SEARCHES, Search
from src.core.errors import UserError, all_of, nearest, option_name, truncate

_GROUP_CLASSES: dict[str, tuple[str, type[Option], set[str]]] = {
    "model": ("src.models.base.Model", ModelOption, {"spec", "training_config", "batch_transform", "decode"}),
    "datamodule": ("src.datamodules.base.DataModule", DataOption, {"data_dir", "write_dir", "fold", "augmentation"}),
    "optimizer": ("torch.optim.Optimizer", Option, {"params"}),
    "scheduler": ("torch.optim.lr_scheduler.LRScheduler", SchedulerOption, {"optimizer"}),
}

"""For each group: the base class of its options, the base class of their schemas, and the arguments that the run passes to the
constructor, which a config cannot set."""

_ENTRY_CLASSES: dict[str, tuple[str, set[str]]] = {
    "callbacks": ("lightning.pytorch.callbacks.Callback", {"monitor", "mode", "dirpath", "folder"}),
    "logger": ("lightning.pytorch.loggers.Logger", {"save_dir"}),
}
"""For each group of entries: the base class of the entries, and the arguments that the run passes, which an entry may set."""

S = TypeVar("S", bound=Section)

_SWEEP_SECTIONS = ("hydra", "search")
"""Sections of a composed config that are not part of a run's config."""


def check_search(cfg: DictConfig) -> Search:
    """Return the validated section ``search`` of a sweep's config.

    Raises:
        UserError: with every problem, one per line.
    """
    plain = OmegaConf.to_container(cfg.search, resolve=True)
    assert isinstance(plain, dict)
    try:
        return SEARCHES.get(plain.get("name", ""), Search).model_validate(plain)
    except ValidationError as error:
        raise all_of(_problems(error, cfg, plain, ("search",))) from error


def check(cfg: DictConfig | Mapping[str, Any], for_training: bool = True) -> Config:
    """Return the validated config of one run.

    Args:
        cfg: composed by Hydra, or plain containers without interpolations, as in a run folder or checkpoint.
        for_training: also check the entries of callbacks and loggers, and that the data files exist.

    Raises:
        UserError: with every problem, one per line.
    """
    resolved = _resolve(cfg) if isinstance(cfg, DictConfig) else cfg
    plain = {str(key): value for key, value in resolved.items() if key not in _SWEEP_SECTIONS}
    if problem := next(_invalid_values(plain), None):
        raise UserError(problem)
    problems: list[str] = []
    checked: dict[str, Any] = dict(plain)
    for group, (_, base, _) in _GROUP_CLASSES.items():
        try:
            checked[group] = _check_option(group, plain.get(group))
        except ValidationError as error:
            problems += _problems(error, cfg, plain[group], (group,))
            checked[group] = base.model_construct()  # a placeholder, so that the other sections are checked as well
    try:
        config = Config.model_validate(checked)
    except ValidationError as error:
        problems += _problems(error, cfg, plain, ())
    for group, key, entry in _entries(plain) if for_training else ():
        try:
            _schema_of_entry(group, key, entry).model_validate(entry)
        except ValidationError as error:
            problems += _problems(error, cfg, entry, (group, key))
    if problems:
        raise all_of(problems)
    if for_training:
        _check_data_paths(config)
    if problems := combination_problems(config):
        raise all_of(problems)
    return config


def _invalid_values(node: Any, key: str = "") -> Iterator[str]:
    """Yield a message for each integer that torch cannot hold or a float cannot represent exactly, and for each text that cannot
    be part of a path.
    """
    if type(node) is int:
        if abs(node) > 2**53:
            yield f"{key}=…: must be an integer of at most 2^53"
    elif isinstance(node, str):
        if "\0" in node:
            yield f"{key}=…: must not contain a NUL character"
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _invalid_values(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _invalid_values(value, key)


def _check_data_paths(config: Config) -> None:
    for key, path in config.datamodule.files().items():
        if not path.is_file():
            problem = "expected a file, but this is a folder" if path.is_dir() else "there is no such file"
            raise UserError(f"datamodule.{key}={path}: {problem}")
    for key, path in config.datamodule.folders().items():
        if not path.is_dir():
            problem = "expected a folder, but this is a file" if path.is_file() else "there is no such folder"
            raise UserError(f"datamodule.{key}={path}: {problem}")


def check_section(schema: type[S], values: Mapping[str, Any], key: str) -> S:
    """Return a validated part of the config that does not belong to a run, such as the settings of a launcher.

    Args:
        schema: the schema of the part.
        values: its keys and values.
        key: its key in the config, such as ``hydra.launcher``.

    Raises:
        UserError: with every problem, one per line.
    """
    path = key.split(".")
    plain = OmegaConf.to_container(OmegaConf.create(dict(values)))
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        nested: Any = plain
        for name in reversed(path):
            nested = {name: nested}
        raise all_of(_problems(error, nested, plain, tuple(path))) from error


def _resolve(raw: Any) -> dict[Any, Any]:
    try:
        missing = sorted(key for key in OmegaConf.missing_keys(raw) if not key.startswith("hydra."))
        plain = OmegaConf.to_container(raw, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    if missing:
        raise UserError("\n".join(f"{key} must be set: {key}=…" for key in missing))
    assert isinstance(plain, dict)
    return plain


def _check_option(group: str, option: Any) -> Option:
    if not isinstance(option, dict):
        raise UserError(f"{group} must be chosen: {group}=…")
    target = option.get("_target_") or ""
    named = {"name": option_name(target) or "none", **option}
    return _schema_of(group, target, named).model_validate(named)


def _schema_of(group: str, target: str, keys: Collection[str] | None = None) -> type[Option]:
    """Return the schema of an option. For a class outside of Gridlight, the keys are the arguments of its constructor.

    Args:
        group: the config group.
        target: dotted path of the class.
        keys: the keys that the config sets, or None for all possible ones; see `schema_of_class`.
    """
    if shipped := SCHEMAS[group].get(target):
        return shipped
    class_name, base, from_run = _GROUP_CLASSES[group]
    cls = locate(target, locate(class_name, object), f"{group}._target_")
    schema = schema_of_class(cls, base, from_run, keys)
    for attribute in ("tasks", "inputs", "task", "raw", "supports_stateful"):
        if hasattr(base, attribute):
            setattr(schema, attribute, getattr(cls, attribute))
    return schema


def _entries(plain: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the group, key and settings of each callback and logger that is not null."""
    for group in _ENTRY_CLASSES:
        entries = plain.get(group)
        for key, entry in entries.items() if isinstance(entries, dict) else ():
            if isinstance(entry, dict):
                yield group, key, entry


def _schema_of_entry(group: str, key: str, entry: Mapping[str, Any]) -> type[Section]:
    target = entry.get("_target_")
    if (group, key, target) == ("logger", "wandb", None):
        return WeightsAndBiases
    if not isinstance(target, str):
        return EntryWithoutClass
    class_name, from_run = _ENTRY_CLASSES[group]
    if shipped := ENTRIES.get(target):
        return shipped
    cls = locate(target, locate(class_name, object), f"{group}.{key}._target_")
    return schema_of_class(cls, Entry, from_run - set(entry), entry)


def _problems(error: ValidationError, raw: Any, plain: Any, start: tuple[str, ...]) -> Iterator[str]:
    """Yield one message per key for the errors of pydantic.

    Args:
        error: raised by pydantic.
        raw: the whole config, whose interpolations are followed.
        plain: the part that was validated, as plain containers.
        start: the key of that part.
    """
    errors_by_key: dict[str, list[tuple[Any, Any]]] = {}
    for entry in error.errors(include_url=False):
        path, node = list(start), plain
        for part in entry["loc"]:  # holds the keys of the config, and the branches of a union
            if isinstance(node, dict) and part in node:
                path.append(str(part))
                node = node[part]
            elif isinstance(node, list) and isinstance(part, int):
                path[-1] += f"[{part}]"
                node = node[part]
            elif entry["type"] == "missing":
                path.append(str(part))
                node = None
        key = ".".join(path)
        if entry["type"] != "extra_forbidden":  # an unknown key is reported under its own name, not that of its value
            key = _source(raw, key)
        errors_by_key.setdefault(key, []).append((entry, node))
    for key, errors in errors_by_key.items():
        yield _describe(key, errors, raw)


def _select(raw: Any, key: str) -> Any:
    """Return the value of a dotted key of a composed config, or of a recorded one, whose strings are literal."""
    if isinstance(raw, DictConfig):
        return OmegaConf.select(raw, key)
    for name in key.split("."):
        raw = raw.get(name) if isinstance(raw, Mapping) else None
    return raw


def _source(raw: Any, key: str) -> str:
    """Return the key at the end of a chain of interpolations, which is the one to change."""
    if not isinstance(raw, DictConfig):
        return key
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(raw, parent) if parent else raw
    if isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name):
        text = str(OmegaConf.to_container(node, resolve=False)[name])  # type: ignore[index, call-overload]
        if match := re.fullmatch(r"\$\{([\w.]+)\}", text):
            return _source(raw, match[1])
    return key


def _describe(key: str, errors: list[tuple[Any, Any]], raw: Any) -> str:
    """Return the message for a key, from its errors and the value that each is about."""
    error, value = errors[0]
    kind = error["type"]
    text, where = _format_value(value), truncate(key, 200)
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        parent, _, name = key.rpartition(".")
        allowed = [allowed_key for allowed_key in _allowed_keys(raw, parent) if not allowed_key.startswith("_")]
        if not allowed:
            section = _select(raw, parent) if parent else raw
            allowed = list(map(str, section)) if isinstance(section, Mapping) else []
        return f"{where}={text}: unknown key '{truncate(name)}'. {nearest(name, allowed)}"
    if kind == "literal_error" and len(errors) == 1:
        options = [option.strip("' ") for option in re.split(r",| or ", error["ctx"]["expected"])]
        return f"{where}={text}: {nearest(str(value), options)}"
    if kind in ("path_not_file", "path_not_directory"):
        return f"{where}={text}: there is no such {'file' if kind == 'path_not_file' else 'folder'}"
    if kind == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if isinstance(value, dict) else f"{where}={text}: {message}"
    requirements = dict.fromkeys(_requirement(other["msg"]) for other, _ in errors)
    return f"{where}={text}: must {' or '.join(requirements)}"


def _requirement(message: str) -> str:
    """Return the part of a pydantic message that follows "must": "Input should be …" becomes "be …"."""
    requirement = message.partition(" should ")[2] or message.replace("Input is not", "not be")
    return requirement.partition(" after validation")[0]


def _allowed_keys(raw: Any, group: str) -> list[str]:
    if group in _GROUP_CLASSES:
        target = _select(raw, f"{group}._target_") or ""
        return [name for name in _schema_of(group, target).model_fields if name != "target"]
    section, _, key = group.partition(".")
    if section in _ENTRY_CLASSES and key:
        entry: Any = _select(raw, group)
        entry = OmegaConf.to_container(entry, resolve=False) if isinstance(entry, DictConfig) else entry
        if not isinstance(entry, Mapping):  # the name of the entry contains a dot
            return []
        return [name for name in _schema_of_entry(section, key, entry).model_fields if name != "target"]
    if group in Config.model_fields:
        annotation = Config.model_fields[group].annotation
        return list(getattr(annotation, "model_fields", {}))
    return list(Config.model_fields) if not group else []


def _format_value(value: Any) -> str:
    """Return a value as an override writes it, shortened."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else truncate(str(value), 200)
