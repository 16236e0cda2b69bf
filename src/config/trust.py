"""What a recorded config may decide.

A config comes from the command line and the user's own conf/, which are trusted, or from a record: config.yaml of a run, a
checkpoint, a ledger. A record is data. Before anything is built from it, `literal_config` checks that

- every ``_target_`` is in a table of known classes, compared as text, because importing a module runs it;
- nothing in it decides what is written, or which host or W&B account is contacted.

The decision is made once, by the process that the user started. It is passed on by the environment: ``--trust MODULE`` adds to
``GRIDLIGHT_TRUST`` and ``--trust-host HOST`` to ``GRIDLIGHT_TRUST_HOST``, which worker processes, SLURM and Ray jobs inherit.
"""

import importlib.metadata
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.groups import CONF, search_roots
from src.config.schema.callbacks import ENTRIES
from src.config.schema.registry import SCHEMAS
from src.config.wandb_account import own_account
from src.core.errors import SHOWN, UserError
from src.core.escape import line
from src.core.wandb_account import own_hosts

log = logging.getLogger(__name__)

TRUST = "GRIDLIGHT_TRUST"
"""Environment variable: modules and classes that a recorded config may name, separated by commas."""

TRUST_HOST = "GRIDLIGHT_TRUST_HOST"
"""Environment variable: hosts that a recorded config may name, separated by commas."""

OWN_DATA = "GRIDLIGHT_OWN_DATA"
"""Environment variable, set by Gridlight for its workers: the data folders that this command's own config names."""

OWN_SETTINGS = "GRIDLIGHT_OWN_SETTINGS"
"""Environment variable, set by Gridlight for its workers: the settings of this command's own config that name a folder, a host,
or a W&B account, as a JSON list of ``key=value``."""

ENTRY_POINTS = "gridlight.extensions"
"""The group of entry points by which an installed package declares modules whose classes a record may name."""

_PLACES = ("callbacks", "logger")
"""Sections of a config whose entries write files or contact servers."""

_FOLDERS = ("dirpath", "save_dir", "default_root_dir")
"""Arguments of entries that name a folder to write into: even a relative one is of the working directory, not of the run."""

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_TARGET_LINE = re.compile(r"_target_['\"]?\s*[:=]\s*['\"]?([\w.]+)")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


# ---- what is trusted -----------------------------------------------------------------------------------------------


def trust(modules: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
    """Trust modules and hosts in this process and in those that it starts.

    Args:
        modules: names of modules or of single classes; a module stands for all modules below it.
        hosts: names of hosts, with ``:port`` for a port of its own.

    Raises:
        UserError: if a name is not a module or a host.
    """
    for name in modules:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise UserError(f"--trust {name}: this is not the name of a module, such as package.module")
        _add(TRUST, name)
    for host in hosts:
        if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?", host):
            raise UserError(f"--trust-host {host}: this is not a host, such as name.example or name.example:8080")
        _add(TRUST_HOST, host.lower())


def _add(variable: str, name: str, separator: str = ",") -> None:
    names = [part for part in os.environ.get(variable, "").split(separator) if part]
    os.environ[variable] = separator.join(dict.fromkeys([*names, name]))


def _listed(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}


def take_trust_flags(argv: Sequence[str]) -> list[str]:
    """Trust what ``--trust`` and ``--trust-host`` name, and return the command line without them.

    Raises:
        UserError: if a flag lacks its value, or names neither a module nor a host.
    """
    rest, kept = list(argv), []
    while rest:
        token = rest.pop(0)
        flag, equals, value = token.partition("=")
        if flag not in ("--trust", "--trust-host"):
            kept.append(token)
            continue
        if not equals:
            if not rest or rest[0].startswith("-"):
                raise UserError(
                    f"{flag} needs a value: {flag} {'package.module' if flag == '--trust' else 'name.example'}"
                )
            value = rest.pop(0)
        names = [name for name in value.split(",") if name]
        trust(names) if flag == "--trust" else trust((), names)
    return kept


@cache
def _shipped() -> frozenset[str]:
    return frozenset({target for group in SCHEMAS.values() for target in group if target} | ENTRIES.keys())


@cache
def _extensions() -> frozenset[str]:
    """Return the modules that installed packages declare; a package in the working directory is not installed."""
    here = {"", os.getcwd()}
    places = [place for place in sys.path if place not in here]
    found = set()
    for distribution in importlib.metadata.distributions(path=places):
        found |= {point.value.partition(":")[0] for point in distribution.entry_points if point.group == ENTRY_POINTS}
    return frozenset(found)


@cache
def _named_in(roots: tuple[Path, ...]) -> frozenset[str]:
    """Return the classes that the option files of some config folders name; a process reads them once."""
    found: set[str] = set()
    for root in roots:
        for file in root.rglob("*.yaml") if root.is_dir() else ():
            found |= set(_TARGET_LINE.findall(file.read_text(encoding="utf-8", errors="replace")))
    return frozenset(found)


def trust_own_config(cfg: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Trust a config that was composed of the user's command line and conf/.

    Its classes may be named by recorded configs. A sweep that is started again, and the workers, read the config back from a
    record: what it sets as folders, hosts, and W&B account may then be the same.

    Args:
        cfg: as composed, never recorded.
        overrides: of the command line, where those of a sweep name further classes.
    """
    named = {value for key, value in _walk(OmegaConf.to_container(cfg, resolve=False)) if key.endswith("_target_")}
    named |= {name for override in overrides for name in _TARGET_LINE.findall(override)}
    for name in sorted(named - _shipped() - {None}):
        if _DOTTED.fullmatch(str(name)):
            _add(TRUST, name)
    name_own_data_folder(str(cfg.paths.data))
    sections = {}
    for section in _PLACES:
        with suppress(OmegaConfBaseException):  # an interpolation that only a single run can resolve
            sections[section] = OmegaConf.to_container(cfg[section], resolve=True)
    os.environ[OWN_SETTINGS] = _with_settings_of(sections)


def _own_settings() -> list[str]:
    return list(json.loads(os.environ.get(OWN_SETTINGS) or "[]"))


def _with_settings_of(config: Mapping[str, Any]) -> str:
    """Return the value of `OWN_SETTINGS` that also has the settings of a config that is trusted."""
    named = [
        f"{key}={value}" for section in _PLACES for key, value, _ in _places_and_hosts(section, config.get(section))
    ]
    return json.dumps(list(dict.fromkeys([*_own_settings(), *named])))


def is_trusted(target: str) -> bool:
    """Return whether a recorded config may name a class. Nothing is imported to find out."""
    if target in _shipped() or _is_below(target, _listed(TRUST)):
        return True
    return not _needs_flag(target, search_roots(sys.argv[1:]))


def _is_below(target: str, modules: Iterable[str]) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in modules)


def _needs_flag(target: str, roots: Iterable[Path]) -> bool:
    """Return whether a recorded config may name a class only if the user trusts it with ``--trust``."""
    return not (target in _shipped() or _is_below(target, _extensions()) or target in _named_in(tuple(roots)))


def trust_flag(config: Mapping[str, Any]) -> str:
    """Return `` --trust …`` with the modules that a verb needs to load the model of a run, or an empty string.

    Args:
        config: of the run; the classes of its callbacks and loggers are not needed.
    """
    sections = {name: section for name, section in config.items() if name not in _PLACES}
    modules = _modules(value for value in _targets(sections) if _needs_flag(value, [CONF]))
    return f" --trust {modules}" if modules else ""


def _targets(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the classes that a config names."""
    for key, value in _walk(config):
        if key.rpartition(".")[2] == "_target_" and isinstance(value, str):
            yield value


def _modules(targets: Iterable[str]) -> str:
    """Return the modules of classes, each once, as ``--trust`` takes them."""
    return ",".join(list(dict.fromkeys(target.rpartition(".")[0] for target in targets))[:SHOWN])


# ---- recorded configs ----------------------------------------------------------------------------------------------


def literal_config(config: Any, source: Path, for_training: bool = True, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Return a recorded config after checking that it decides nothing that a record must not decide.

    Strings are literal: no resolver such as ``${oc.env:…}`` runs on them.

    Args:
        config: plain containers, as parsed.
        source: where the config is recorded, for messages.
        for_training: callbacks and loggers are going to be made; else nothing of their sections is.
        changes: overrides of the command line that are going to replace single keys, whose recorded values do not count.

    Raises:
        UserError: with everything that is refused, and the flag that allows it.
    """
    if not isinstance(config, Mapping) or not config:
        raise UserError(f"{source}: this is not a config: a mapping is expected")
    recorded: dict[str, Any] = {str(key): value for key, value in config.items()}
    recorded["resume"] = None
    made = {key: value for key, value in recorded.items() if for_training or key not in _PLACES}
    replaced = {change.partition("=")[0] for change in changes}
    own = set(_own_settings())
    problems = [
        problem
        for section in (_PLACES if for_training else ())
        for key, value, problem in _places_and_hosts(section, recorded.get(section))
        if key not in replaced and f"{key}={value}" not in own
    ]
    problems += _untrusted_classes(made)
    if problems:
        lines = list(dict.fromkeys(problems))
        if len(lines) > SHOWN:  # the last one names the flag of the classes
            lines = [*lines[: SHOWN - 1], f"… and {len(lines) - SHOWN} more", lines[-1]]
        raise UserError("\n".join([f"{source}: this recorded config is refused", *lines]))
    return recorded


def _untrusted_classes(config: Mapping[str, Any]) -> Iterator[str]:
    refused = False
    for key, value in _walk(config):
        if key.rpartition(".")[2] != "_target_" or value is None:
            continue
        if not isinstance(value, str) or not _DOTTED.fullmatch(value):
            yield f"{key}={str(value)[:80]}: a class is named as package.module.Class"
        elif not is_trusted(value):
            refused = True
            yield f"{key}={value}: this is not a class of Gridlight"
    if refused:  # those that are trusted already are named again, as a second flag or variable replaces the first
        roots = search_roots(sys.argv[1:])
        modules = _modules(name for name in _targets(config) if _DOTTED.fullmatch(name) and _needs_flag(name, roots))
        now = os.environ.get(TRUST, "")
        trusted = f" (trusted now: {now[:80]})" if now else ""
        yield (
            f"Importing a module runs its code. If you trust the code, add --trust {modules} or set {TRUST}={modules}"
            f"{trusted}"
        )


def _walk(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested containers with its dotted key, and every value of a key ``_target_``."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            path = f"{key}.{name}" if key else str(name)
            if name == "_target_" and isinstance(value, Mapping | list | tuple):
                yield path, value
            yield from _walk(value, path)
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            yield from _walk(value, f"{key}[{position}]")
    else:
        yield key, node


def _places_and_hosts(section: str, entries: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield the key and the value of settings that name a folder, a foreign host, or a foreign account, and what to do."""
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        if not isinstance(entry, Mapping):
            continue
        key = f"{section}.{name}"
        if (section, name) == ("logger", "wandb") and "_target_" not in entry:
            if problem := _other_account(entry.get("entity")):
                yield f"{key}.entity", entry["entity"], problem
            continue
        for path, value in _walk(entry, key):
            if (
                isinstance(value, str)
                and not path.endswith("._target_")
                and (problem := _other_place_or_host(path, value))
            ):
                yield path, value, problem


def _other_account(entity: object) -> str | None:
    reason = own_account().refusal(entity=entity)
    return reason and f"logger.wandb.entity: {reason}, or add logger.wandb.entity=… to the command line"


def _other_place_or_host(key: str, value: str) -> str | None:
    if _URL.match(value):
        host = (urlsplit(value).netloc.rpartition("@")[2] or value).lower()
        if host in own_hosts() | {name.lower() for name in _listed(TRUST_HOST)}:
            return None
        return f"{key}={value[:80]}: this may send data to the host {host}. If you trust it, add --trust-host {host}"
    if (
        key.rpartition(".")[2] in _FOLDERS
        or value.startswith(("/", "\\", "~"))
        or ".." in re.split(r"[/\\]", value)
        or re.match(r"[A-Za-z]:", value)
    ):
        return (
            f"{key}={value[:80]}: a recorded config does not decide where files are written. To use this path, add "
            f"{key}=… to the command line, or repeat the command of the sweep"
        )
    return None


_RECORDED_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w-]*(?:[./][\w-]+)*")
_NEVER_RECORDED = ("hydra", "resume", "sweep", "defaults", "search")


def refuse_overrides(overrides: Iterable[str], source: object) -> None:
    """Raise an error for recorded overrides that must not be composed.

    A search composes the recorded overrides of its sweep again. They may set keys of a run and choose options, but not change
    where options are searched, name a class that is not trusted, or hold interpolations. The composed config is checked by
    `literal_config`.

    Args:
        overrides: recorded in a ledger.
        source: where they are recorded, for the message.

    Raises:
        UserError: for the first that is refused.
    """
    for override in overrides:
        key = override.partition("=")[0]
        section = re.split(r"[./]", key.lstrip("+~"))[0]
        named = _TARGET_LINE.findall(override)
        fine = _RECORDED_KEY.fullmatch(key) and section not in _NEVER_RECORDED and "$" not in override
        if not fine or len(named) != override.count("_target_") or not all(map(is_trusted, named)):
            raise UserError(
                f"{source}: the recorded override {override[:80]!r} is refused. If you trust it, repeat the command of the sweep"
            )


# ---- folders that are written --------------------------------------------------------------------------------------


def own_data_folder() -> Path:
    """Return the user's data folder when no command names another: GRIDLIGHT_DATA, else ``data``."""
    return Path(os.environ.get("GRIDLIGHT_DATA") or "data")


def name_own_data_folder(path: str | Path) -> None:
    """Note that the user's own config or command names a data folder, which may then be written."""
    _add(OWN_DATA, str(Path(path).absolute()), os.pathsep)


def writable_data_folder(path: Path) -> Path:
    """Return the folder in which downloads and caches are written.

    Args:
        path: ``paths.data`` of a config, which may be recorded.

    Returns:
        The same folder if the user named it, else the user's own data folder.
    """
    named = os.environ.get(OWN_DATA, "").split(os.pathsep)
    own = own_data_folder()
    return path if str(path.absolute()) in {*named, str(own.absolute())} else own


def trust_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that lets a worker process use exactly the classes, folders, hosts, and account of a config.

    Args:
        config: of a job, which this process has already decided to trust.
    """
    classes = set(_targets(config)) - _shipped()
    return {TRUST: ",".join(sorted(_listed(TRUST) | classes)), OWN_SETTINGS: _with_settings_of(config)}


def name_external_data(config: Any, changes: Sequence[str] = ()) -> None:
    """Log the files and folders outside of the working directory that a recorded config reads as data.

    Args:
        config: checked, and recorded.
        changes: overrides of the command line, whose paths are the user's own.
    """
    named = {
        f"datamodule.{key}": path for key, path in (config.datamodule.files() | config.datamodule.folders()).items()
    }
    data = config.paths.data
    if writable_data_folder(data) != data:
        named["paths.data"] = data
    for change in changes:
        named.pop(change.partition("=")[0], None)
    for key, path in named.items():
        place = Path(os.path.normpath(Path(path).absolute()))
        if not place.is_relative_to(Path.cwd()):
            log.warning("the recorded config reads data outside of the working directory: %s=%s", key, line(place))
