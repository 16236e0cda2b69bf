"""check(cfg): types, ranges and combinations of a whole config, before any work starts."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from src.config.combinations import combination_problems
from src.config.locate import locate
from src.config.schema.base import Entry, Option, Section, Unnamed
from src.config.schema.callbacks import ENTRIES
from src.config.schema.datamodule import DataOption
from src.config.schema.from_signature import schema_of_class
from src.config.schema.logger import WeightsAndBiases
from src.config.schema.model import ModelOption
from src.config.schema.registry import SCHEMAS
from src.config.schema.run import Config
from src.config.schema.scheduler import SchedulerOption
from src.config.schema.search import SEARCHES, Search
from src.core.errors import UserError, all_of, nearest, option_name, short

# What a group's class must derive from, and what the run itself passes to it: not for a config to say.
_KINDS: dict[str, tuple[str, type[Option], set[str]]] = {
    "model": ("src.models.base.Model", ModelOption, {"spec"}),
    "datamodule": ("src.datamodules.base.DataModule", DataOption, set()),
    "optimizer": ("torch.optim.Optimizer", Option, {"params"}),
    "scheduler": ("torch.optim.lr_scheduler.LRScheduler", SchedulerOption, {"optimizer"}),
}

# The same for the entries of these groups. What the run passes, an entry may set otherwise.
_ENTRY_KINDS: dict[str, tuple[str, set[str]]] = {
    "callbacks": ("lightning.pytorch.callbacks.Callback", {"monitor", "mode", "dirpath", "folder"}),
    "logger": ("lightning.pytorch.loggers.Logger", {"save_dir"}),
}

S = TypeVar("S", bound=Section)


_OF_A_SWEEP = ("hydra", "search")
"""Sections of what Hydra composed that are no part of a run's config."""


def check_search(cfg: DictConfig) -> Search:
    """Return the checked section ``search`` of a sweep's config.

    Raises:
        UserError: with every problem that was found, one a line.
    """
    plain = OmegaConf.to_container(cfg.search, resolve=True)
    assert isinstance(plain, dict)
    try:
        return SEARCHES.get(plain.get("name", ""), Search).model_validate(plain)
    except ValidationError as error:
        raise all_of(_problems(error, cfg, plain, ("search",))) from error


def check(cfg: DictConfig | Mapping[str, Any], for_training: bool = True) -> Config:
    """Return the checked config of one run.

    Args:
        cfg: what Hydra composed, or plain containers with nothing left to resolve, as in a run folder or checkpoint.
        for_training: the files that the data are read from must be there, and callbacks and loggers can be made.

    Raises:
        UserError: with every problem that was found, one a line.
    """
    resolved = _resolve(cfg) if isinstance(cfg, DictConfig) else cfg
    plain = {str(key): value for key, value in resolved.items() if key not in _OF_A_SWEEP}

    def found_in(error: ValidationError, given: Any, *start: str) -> Iterator[str]:
        return _problems(error, cfg, given, start)

    if too_large := next(_too_large(plain), None):
        raise UserError(f"{too_large}=…: must be an integer of at most 2^53")
    problems: list[str] = []
    checked: dict[str, Any] = dict(plain)
    for group, (_, base, _) in _KINDS.items():
        try:
            checked[group] = _check_option(group, plain.get(group))
        except ValidationError as error:
            problems += found_in(error, plain[group], group)
            checked[group] = base.model_construct()  # stands in, so that the rest is checked at the same time
    try:
        config = Config.model_validate(checked)
    except ValidationError as error:
        problems += found_in(error, plain)
    for group, key, entry in _entries(plain) if for_training else ():
        try:
            _schema_of_entry(group, key, entry).model_validate(entry)
        except ValidationError as error:
            problems += found_in(error, entry, group, key)
    if problems:
        raise all_of(problems)
    for key, path in config.datamodule.files().items() if for_training else ():
        if not path.is_file():
            says = "this is a folder, and a file is expected" if path.is_dir() else "there is no such file"
            raise UserError(f"datamodule.{key}={path}: {says}")
    for key, path in config.datamodule.folders().items() if for_training else ():
        if not path.is_dir():
            says = "this is a file, and a folder is expected" if path.is_file() else "there is no such folder"
            raise UserError(f"datamodule.{key}={path}: {says}")
    if found := combination_problems(config):
        raise all_of(found)
    return config


def _too_large(node: Any, key: str = "") -> Iterator[str]:
    """Yield the keys of integers that torch cannot hold, or a float not exactly."""
    if type(node) is int:
        if abs(node) > 2**53:
            yield key
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _too_large(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _too_large(value, key)


def check_section(kind: type[S], given: Mapping[str, Any], key: str) -> S:
    """Return a part of the config that does not belong to a run, such as the settings of a launcher.

    Args:
        kind: its schema.
        given: its keys and values.
        key: where it stands, such as ``hydra.launcher``.

    Raises:
        UserError: with every problem that was found, one a line.
    """
    path = key.split(".")
    plain = OmegaConf.to_container(OmegaConf.create(dict(given)))
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        whole: Any = plain
        for name in reversed(path):
            whole = {name: whole}
        raise all_of(_problems(error, whole, plain, tuple(path))) from error


def _resolve(raw: Any) -> dict[Any, Any]:
    try:
        missing = sorted(key for key in OmegaConf.missing_keys(raw) if not key.startswith("hydra."))
        plain = OmegaConf.to_container(raw, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    if missing:
        raise UserError("\n".join(f"{key} must be given: {key}=…" for key in missing))
    assert isinstance(plain, dict)
    return plain


def _check_option(group: str, option: Any) -> Option:
    if not isinstance(option, dict):
        raise UserError(f"{group} must be chosen: {group}=…")
    target = option.get("_target_") or ""
    named = {"name": option_name(target) or "none", **option}
    return _schema_of(group, target, named).model_validate(named)


def _schema_of(group: str, target: str, given: Collection[str] | None = None) -> type[Option]:
    """Return the schema of an option; that of a user's own class has the keys that its constructor takes."""
    if known := SCHEMAS[group].get(target):
        return known
    kind_name, base, from_run = _KINDS[group]
    cls = locate(target, locate(kind_name, object), f"{group}._target_")
    made = schema_of_class(cls, base, from_run, given)
    for fact in ("tasks", "inputs", "task", "raw", "carries_state"):
        if hasattr(base, fact):
            setattr(made, fact, getattr(cls, fact))
    return made


def _entries(plain: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each callback and logger that is not switched off: its group, its key and its settings."""
    for group in _ENTRY_KINDS:
        entries = plain.get(group)
        for key, entry in entries.items() if isinstance(entries, dict) else ():
            if isinstance(entry, dict):
                yield group, key, entry


def _schema_of_entry(group: str, key: str, entry: Mapping[str, Any]) -> type[Section]:
    target = entry.get("_target_")
    if (group, key, target) == ("logger", "wandb", None):
        return WeightsAndBiases
    if not isinstance(target, str):
        return Unnamed
    kind_name, from_run = _ENTRY_KINDS[group]
    if known := ENTRIES.get(target):
        return known
    cls = locate(target, locate(kind_name, object), f"{group}.{key}._target_")
    return schema_of_class(cls, Entry, from_run - set(entry), entry)


def _problems(error: ValidationError, raw: Any, plain: Any, start: tuple[str, ...]) -> Iterator[str]:
    """Put pydantic's findings into our words, one line a key."""
    found: dict[str, list[tuple[str, Any, dict[str, Any]]]] = {}
    for entry in error.errors(include_url=False):
        path, node = list(start), plain
        for part in entry["loc"]:  # beyond the keys of the config, loc names the branches of a union
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
        if entry["type"] != "extra_forbidden":  # an unknown key is wrong whatever its value is
            key = _source(raw, key)
        found.setdefault(key, []).append((entry["type"], entry, {"value": node}))
    for key, entries in found.items():
        yield _describe(key, entries, raw)


def _select(raw: Any, key: str) -> Any:
    """Return the value of a dotted key of a composed config, or of a recorded one, whose strings are literal."""
    if isinstance(raw, DictConfig):
        return OmegaConf.select(raw, key)
    for name in key.split("."):
        raw = raw.get(name) if isinstance(raw, Mapping) else None
    return raw


def _source(raw: Any, key: str) -> str:
    """Follow an interpolation to the key that a person would change."""
    if not isinstance(raw, DictConfig):
        return key
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(raw, parent) if parent else raw
    if isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name):
        text = str(OmegaConf.to_container(node, resolve=False)[name])  # type: ignore[index, call-overload]
        if match := re.fullmatch(r"\$\{([\w.]+)\}", text):
            return _source(raw, match[1])
    return key


def _describe(key: str, entries: list[tuple[str, Any, dict[str, Any]]], raw: Any) -> str:
    kind, entry, more = entries[0]
    value, where = _shown(more["value"]), short(key, 200)
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        parent, _, name = key.rpartition(".")
        siblings = _select(raw, parent) if parent else raw
        allowed = [k for k in _allowed_keys(raw, parent) if not k.startswith("_")] or list(
            map(str, siblings if isinstance(siblings, Mapping) else ())
        )
        return f"{where}={value}: unknown key '{short(name)}'. {nearest(name, allowed)}"
    if kind == "literal_error" and len(entries) == 1:
        options = [option.strip("' ") for option in re.split(r",| or ", entry["ctx"]["expected"])]
        return f"{where}={value}: {nearest(str(more['value']), options)}"
    if kind in ("path_not_file", "path_not_directory"):
        return f"{where}={value}: there is no such {'file' if kind == 'path_not_file' else 'folder'}"
    if kind == "value_error":
        said = entry["msg"].removeprefix("Value error, ")
        return f"{where}: {said}" if isinstance(more["value"], dict) else f"{where}={value}: {said}"
    says = dict.fromkeys(_must(finding["msg"]) for _, finding, _ in entries)
    return f"{where}={value}: must {' or '.join(says)}"


def _must(message: str) -> str:
    """Put what pydantic says, "Input should be …" or "List should have at least 2 items after …", behind "must"."""
    said = message.partition(" should ")[2] or message.replace("Input is not", "not be")
    return said.partition(" after validation")[0]


def _allowed_keys(raw: Any, group: str) -> list[str]:
    if group in _KINDS:
        target = _select(raw, f"{group}._target_") or ""
        return [name for name in _schema_of(group, target).model_fields if name != "target"]
    kind, _, key = group.partition(".")
    if kind in _ENTRY_KINDS and key:
        entry: Any = _select(raw, group)
        entry = OmegaConf.to_container(entry, resolve=False) if isinstance(entry, DictConfig) else entry
        if not isinstance(entry, Mapping):  # the name of the entry contains a dot
            return []
        return [name for name in _schema_of_entry(kind, key, entry).model_fields if name != "target"]
    if group in Config.model_fields:
        annotation = Config.model_fields[group].annotation
        return list(getattr(annotation, "model_fields", {}))
    return list(Config.model_fields) if not group else []


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else short(str(value), 200)
